"""The corrected policy-gradient loss, one pure function for the baseline and for every nested run.

Deviations from GRPO as published: the old policy is the behaviour policy b that wrote the rollout; no KL term to a
reference model (the reward is verifiable); one update a rollout.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nested_reft.core.corrections import THROUGH_RATIO, importance_weights

NORMALISATIONS = ("grpo", "dr_grpo", "bnpo")


def token_scale(mask: Tensor, normalisation: str, max_new_tokens: int) -> Tensor:
    """What each token's term is multiplied by, (B, 1), from the mask (B, T) of the whole batch.

    grpo: 1 / (B |o_i|), the mean over a completion, then over completions (Shao et al. 2024); dr_grpo: 1 / (B T_max),
    no bias by length (Liu et al. 2025); bnpo: 1 / sum_i |o_i|, the mean over the batch's tokens. The sum over any
    micro-batches with their rows of this scale is the loss of the whole batch, exactly.
    """
    lengths = mask.sum(dim=1, keepdim=True).clamp_min(1).float()
    match normalisation:
        case "grpo":
            return 1 / (len(mask) * lengths)
        case "dr_grpo":
            return torch.full_like(lengths, 1 / (len(mask) * max_new_tokens))
        case "bnpo":
            return torch.full_like(lengths, 1 / mask.sum().clamp_min(1).item())
    raise ValueError(f"normalisation must be one of {', '.join(NORMALISATIONS)}, got '{normalisation}'")


def policy_loss(
    logp_target: Tensor,
    logp_behavior: Tensor,
    mask: Tensor,
    advantages: Tensor,
    scale: Tensor,
    *,
    correction: str,
    params: dict[str, float],
) -> tuple[Tensor, dict[str, float]]:
    """Loss whose gradient is minus the corrected policy gradient, and metrics of the weights that were used.

    logp_target (differentiable), logp_behavior, mask: (B, T); advantages: (B,); scale: (B, 1) from `token_scale`.
    For `base` the gradient flows through the weight: d rho = rho d log pi, inside the clip. For the others the weight
    is a constant beside d log pi. Both are the same gradient where rho is 1.
    """
    weights = importance_weights(
        correction, logp_target, logp_behavior, mask, advantages=advantages, **params
    )  # (B, T)
    terms = weights if correction in THROUGH_RATIO else weights * logp_target  # (B, T)
    objective = torch.where(mask.bool(), terms * advantages.unsqueeze(1), 0.0)  # (B, T)
    loss = -(objective * scale).sum()
    used = weights.detach()[mask.bool()]
    return loss, {"weight_mean": used.mean().item(), "weight_max": used.max().item()}
