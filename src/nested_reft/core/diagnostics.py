"""How far the behaviour policy is from the target: measured on each batch, before any clipping or truncation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nested_reft.core.corrections import check_logps, log_ratio

QUANTILES = (1, 5, 50, 95, 99)


def effective_sample_size(log_weights: Tensor) -> float:
    """(sum w)^2 / (n sum w^2) of log weights (n,): 1 for equal weights, 1/n where one weight has it all (Kong 1992)."""
    total, squares = torch.logsumexp(log_weights, 0), torch.logsumexp(2 * log_weights, 0)
    return torch.exp(2 * total - squares).item() / len(log_weights)


def ratio_statistics(log_rho: Tensor, clip_low: float, clip_high: float) -> dict[str, float]:
    """Distances between pi and b from log ratios (n,) = log pi - log b of things that b sampled.

    kl_k1, kl_k3: estimates of KL(b || pi), the mean of -log rho and of rho - 1 - log rho (Schulman 2020); chi2: the
    mean of (rho - 1)^2, an estimate of chi-square(pi || b); ess: `effective_sample_size`; ratio_*: rho itself;
    clip_fraction: the share of rho outside [1 - clip_low, 1 + clip_high], whether or not the correction clips.
    """
    rho = log_rho.exp()
    outside = (rho < 1 - clip_low) | (rho > 1 + clip_high)
    return {
        "kl_k1": -log_rho.mean().item(),
        "kl_k3": (rho - 1 - log_rho).mean().item(),
        "chi2": (rho - 1).square().mean().item(),
        "ess": effective_sample_size(log_rho),
        "clip_fraction": outside.double().mean().item(),
        "ratio_mean": rho.mean().item(),
        "ratio_min": rho.min().item(),
        "ratio_max": rho.max().item(),
        **{f"ratio_q{q:02d}": value for q, value in zip(QUANTILES, quantiles(rho, QUANTILES), strict=True)},
    }


def quantiles(values: Tensor, percents: Sequence[int]) -> list[float]:
    """Quantiles of values (n,), interpolated linearly; `torch.quantile` takes at most 2^24 values."""
    ordered, found = values.sort().values, []
    for percent in percents:
        rank = percent / 100 * (len(values) - 1)
        below = int(rank)
        found.append(torch.lerp(ordered[below], ordered[min(below + 1, len(values) - 1)], rank - below).item())
    return found


def off_policy_diagnostics(
    logp_target: Tensor, logp_behavior: Tensor, mask: Tensor, *, clip_low: float = 0.2, clip_high: float = 0.2
) -> dict[str, float]:
    """How far b is from pi, on the tokens and on the completions that b sampled; before any clipping.

    Args:
        logp_target: (B, T), log pi of the tokens under the target.
        logp_behavior: (B, T), log b of the same tokens under the policy that sampled them.
        mask: (B, T), true for completion tokens; a row without any does not count as a completion.
        clip_low: of `clip_fraction` only: ratios below 1 - clip_low count.
        clip_high: likewise, those above 1 + clip_high.

    Returns:
        `ratio_statistics` of the tokens' ratios (log-probabilities in nats), and of whole completions' ratios, the
        products of their tokens', under the same names with `_sequence` appended.

    Raises:
        ValueError: shapes differ, no token is valid, or a valid log-probability is not finite.
    """
    check_logps(mask, logp_target=logp_target, logp_behavior=logp_behavior)
    log_rho = log_ratio(logp_target.detach(), logp_behavior, mask).double()  # (B, T)
    valid = mask.bool()
    by_token = ratio_statistics(log_rho[valid], clip_low, clip_high)
    by_sequence = ratio_statistics(log_rho.sum(dim=1)[valid.any(dim=1)], clip_low, clip_high)
    return by_token | {f"{name}_sequence": value for name, value in by_sequence.items()}
