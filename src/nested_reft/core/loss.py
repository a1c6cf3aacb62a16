"""The corrected policy-gradient loss, one pure function for the baseline and for every nested run.

Deviations from GRPO as published: the old policy is the behaviour policy b that wrote the rollout; no KL term to a
reference model unless asked for (the reward is verifiable).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nested_reft.core.advantages import BASELINES
from nested_reft.core.corrections import Ratios, check_logps, correction_named, importance_weights, log_ratio, ppo_clip

UNCLIPPED = {"clip_low": math.inf, "clip_high": math.inf}
NORMALISATIONS = ("grpo", "dr_grpo", "bnpo", "dapo")


@dataclass(frozen=True)
class Objective:
    """What is maximised: each difference from plain GRPO is one switch, with the name that it has in the config.

    Args:
        correction: the weight of behaviour-policy samples, a key of `core.corrections.CORRECTIONS`.
        params: the correction's parameters; what is not given has the default of the registry.
        normalisation: `grpo`, `dr_grpo`, `bnpo` or `dapo`; see `token_scale`.
        advantage_baseline: `group_mean` or `leave_one_out`; see `group_advantages`, which the caller calls.
        advantage_std: divide the advantages by the group's standard deviation; likewise.
        update_clip_low: PPO's clip (Schulman et al. 2017) of the ratio that the gradient flows through: for `base` that
            to b, for the others that to the policy before the update. In (0, 1); None: 0.2. `gspo` has its own.
        update_clip_high: its upper side, above 0; above update_clip_low it is clip-higher (DAPO, Yu et al. 2025).
        kl_coefficient: of the k3 estimate of KL(pi || reference), inside the mean over tokens as in GRPO; not negative.

    Raises:
        ValueError: a switch has no such value; the message names it and what is possible.
    """

    correction: str = "base"
    params: Mapping[str, float] = field(default_factory=dict)
    normalisation: str = "grpo"
    advantage_baseline: str = "group_mean"
    advantage_std: bool = True
    update_clip_low: float | None = None
    update_clip_high: float | None = None
    kl_coefficient: float = 0.0

    def __post_init__(self) -> None:
        correction = correction_named(self.correction)
        correction.resolve(self.params, own=True)
        for name, known in (("normalisation", NORMALISATIONS), ("advantage_baseline", BASELINES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'")
        if (self.update_clip_low, self.update_clip_high) != (None, None) and correction.clip == "own":
            raise ValueError(f"update_clip_low and _high do nothing with '{self.correction}', which has its own clip")
        low, high = self.update_clip
        if not 0 < low < 1:
            raise ValueError(f"update_clip_low must be in (0, 1), got {low}")
        if not high > 0:
            raise ValueError(f"update_clip_high must be above 0, got {high}")
        if not self.kl_coefficient >= 0:
            raise ValueError(f"kl_coefficient must not be negative, got {self.kl_coefficient}")

    @property
    def update_clip(self) -> tuple[float, float]:
        """How far below and above 1 the ratio is clipped."""
        low, high = (0.2 if clip is None else clip for clip in (self.update_clip_low, self.update_clip_high))
        return low, high


def token_scale(
    mask: Tensor, normalisation: str, max_new_tokens: int, rows_per_micro_batch: int | list[int] | None = None
) -> Tensor:
    """What each token's term is multiplied by, (B, 1) float64, from the mask (B, T) of the whole batch.

    grpo: 1 / (B |o_i|), the mean over a completion, then over completions (Shao et al. 2024); dr_grpo: 1 / (B T_max),
    no bias by length (Liu et al. 2025); dapo: 1 / sum_i |o_i|, the mean over all tokens of the batch (Yu et al. 2025);
    bnpo: the mean over the tokens of each micro-batch, then over micro-batches, the only one that depends on their
    size: one for all, or one for each. The losses of the micro-batches, each with its rows of this scale, add up to the
    loss of the whole batch exactly. Raises ValueError for another normalisation.
    """
    rows = len(mask)
    lengths = mask.sum(dim=1, keepdim=True).double()  # (B, 1)
    match normalisation:
        case "grpo":
            return 1 / (rows * lengths.clamp_min(1))
        case "dr_grpo":
            return torch.full_like(lengths, 1 / (rows * max_new_tokens))
        case "dapo":
            return torch.full_like(lengths, 1 / max(int(mask.sum()), 1))
        case "bnpo":
            parts = torch.split(lengths, rows_per_micro_batch or rows)
            return torch.cat([torch.full_like(part, 1 / (len(parts) * max(part.sum().item(), 1))) for part in parts])
    raise ValueError(f"normalisation must be one of {', '.join(NORMALISATIONS)}, got '{normalisation}'")


def policy_loss(
    objective: Objective,
    logp_target: Tensor,
    logp_behavior: Tensor,
    mask: Tensor,
    advantages: Tensor,
    *,
    max_new_tokens: int,
    scale: Tensor | None = None,
    logp_old: Tensor | None = None,
    logp_reference: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Loss whose gradient is minus the corrected policy gradient, and metrics (means over the mask's tokens).

    Term of token t, with A the advantage and r = pi / pi_old:

    - `base`, `gspo`: min(rho A, clip(rho) A), rho = pi / b, of the token or the mean over the completion: GRPO and GSPO
      as they are, the old policy being b, for every update;
    - the others: w(pi_old / b) min(r A, clip(r) A), decoupled (Hilton et al. 2022): the weight corrects the sampling,
      the clipped ratio bounds the update. At the first update r is 1 and the gradient is w A d log pi.

    Args:
        objective: the switches.
        logp_target: (B, T), log pi of the tokens, differentiable.
        logp_behavior: (B, T), log b of the tokens as they were sampled.
        mask: (B, T), true for completion tokens.
        advantages: B values in any shape, such as the (P, G) of `group_advantages`; row p G + g of the others is
            completion g of problem p.
        max_new_tokens: T_max, for `dr_grpo`.
        scale: (B, 1), these rows of the whole batch's `token_scale` if this is a micro-batch; None: this is the batch.
        logp_old: (B, T), under the policy before the first of several updates on one rollout; None: this is the first.
        logp_reference: (B, T), needed with `kl_coefficient`.

    Returns:
        The loss, a scalar, and the metrics `weight_mean`, `weight_max`, `surrogate_clip_fraction` and, with
        `kl_coefficient`, `kl_reference` (nats per token).

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    if advantages.numel() != len(mask):
        raise ValueError(f"advantages {tuple(advantages.shape)} has {advantages.numel()} completions, mask {len(mask)}")
    if not torch.isfinite(advantages).all():
        raise ValueError("advantages has a value that is not finite")
    if scale is None:
        scale = token_scale(mask, objective.normalisation, max_new_tokens)
    elif scale.shape != (len(mask), 1):
        raise ValueError(f"scale is {tuple(scale.shape)}, but must be ({len(mask)}, 1)")
    valid = mask.bool()
    check_logps(
        mask, logp_target=logp_target, logp_behavior=logp_behavior, logp_old=logp_old, logp_reference=logp_reference
    )
    old = logp_target.detach() if logp_old is None else logp_old.detach()
    advantages = advantages.flatten().to(logp_target)  # (B,)

    # 1. The weighted term of each token, (B, T); the gradient flows through `surrogate` only
    correction, (low, high) = correction_named(objective.correction), objective.update_clip
    weights = importance_weights(
        objective.correction,
        logp_target if correction.through_ratio else old,
        logp_behavior,
        mask,
        advantages=advantages,
        **objective.params,
        **({"clip_low": low, "clip_high": high} if correction.clip == "update" else {}),
    )
    if correction.through_ratio:
        ratios = Ratios(log_ratio(logp_target.detach(), logp_behavior, mask), valid, advantages)
        surrogate, clipped = weights, weights != correction.weights(ratios, UNCLIPPED)
    else:
        ratio = log_ratio(logp_target, old, mask).exp()
        kept = ppo_clip(ratio, advantages, low, high)
        surrogate, clipped = weights * kept, kept != ratio
    terms = surrogate * advantages.unsqueeze(1)  # (B, T)
    metrics = {
        "weight_mean": weights.detach()[valid].mean().item(),
        "weight_max": weights.detach()[valid].max().item(),
        "surrogate_clip_fraction": clipped[valid].double().mean().item(),
    }

    # 2. KL to the reference, k3 (Schulman 2020): pi_ref / pi - 1 - log(pi_ref / pi). The tokens are b's: the constant
    # rho makes the expectation at each prefix that under pi, as it is in the baseline.
    if objective.kl_coefficient:
        if logp_reference is None:
            raise ValueError("logp_reference is missing, and kl_coefficient is not 0")
        log_reference = log_ratio(logp_reference.detach(), logp_target, mask)  # (B, T)
        rho = log_ratio(logp_target.detach(), logp_behavior, mask).exp()
        k3 = rho * (log_reference.exp() - 1 - log_reference)
        terms = terms - objective.kl_coefficient * k3
        metrics["kl_reference"] = k3.detach()[valid].mean().item()

    # 3. The normalised sum; masked tokens do not count, whatever their values
    loss = -(torch.where(valid, terms, 0.0) * scale.to(logp_target)).sum()
    return loss, metrics
