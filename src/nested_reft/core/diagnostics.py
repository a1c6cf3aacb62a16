"""How far the behaviour policy is from the target: measured on each batch, before any clipping or truncation."""

from __future__ import annotations

import torch
from torch import Tensor

from nested_reft.core.corrections import check_pair, log_ratio

QUANTILES = (1, 5, 50, 95, 99)


def effective_sample_size(log_weights: Tensor) -> float:
    """(sum w)^2 / (n sum w^2) of log weights (n,): 1 for equal weights, 1/n where one weight has it all (Kong 1992)."""
    total, squares = torch.logsumexp(log_weights, 0), torch.logsumexp(2 * log_weights, 0)
    return torch.exp(2 * total - squares).item() / len(log_weights)


def off_policy_diagnostics(
    logp_target: Tensor, logp_behavior: Tensor, mask: Tensor, *, clip_low: float = 0.2, clip_high: float = 0.2
) -> dict[str, float]:
    """Distances between target pi and behaviour b on tokens that b sampled; all inputs (B, T).

    kl_k1, kl_k3: estimates of KL(b || pi) a token, the mean of -log rho and of rho - 1 - log rho (Schulman 2020);
    chi2: the mean of (rho - 1)^2, an estimate of chi-square(pi || b); ess, ess_sequence: effective sample size over
    the number of tokens, of completions; ratio_*: rho a token; clip_fraction: the share of tokens whose rho lies
    outside [1 - clip_low, 1 + clip_high], whether or not the correction in use clips.
    """
    check_pair(logp_target, logp_behavior, mask)
    by_row = log_ratio(logp_target.detach(), logp_behavior, mask).double()
    log_rho = by_row[mask.bool()]
    rho = log_rho.exp()
    quantiles = torch.quantile(rho, torch.tensor([q / 100 for q in QUANTILES], dtype=rho.dtype, device=rho.device))
    outside = (rho < 1 - clip_low) | (rho > 1 + clip_high)
    return {
        "kl_k1": -log_rho.mean().item(),
        "kl_k3": (rho - 1 - log_rho).mean().item(),
        "chi2": (rho - 1).square().mean().item(),
        "ess": effective_sample_size(log_rho),
        "ess_sequence": effective_sample_size(by_row.sum(dim=1)),
        "ratio_mean": rho.mean().item(),
        "ratio_min": rho.min().item(),
        "ratio_max": rho.max().item(),
        **{f"ratio_q{q:02d}": value.item() for q, value in zip(QUANTILES, quantiles, strict=True)},
        "clip_fraction": outside.double().mean().item(),
    }
