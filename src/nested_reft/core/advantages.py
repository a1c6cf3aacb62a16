"""Group-relative advantages: how much better a completion is than the others for the same problem."""

from __future__ import annotations

import torch
from torch import Tensor

BASELINES = ("group_mean", "leave_one_out")


def group_advantages(rewards: Tensor, *, baseline: str = "group_mean", scale_by_std: bool = True) -> Tensor:
    """Advantages of completions within their groups, one group per problem.

    Args:
        rewards: (P, G), of G completions of each of P problems.
        baseline: what is subtracted. `group_mean`: the mean of the whole group (GRPO, Shao et al. 2024), which includes
            the sample itself and shrinks the expected gradient by 1 - 1/G; `leave_one_out`: the mean of the other
            G - 1 (RLOO, Ahmadian et al. 2024), which leaves the gradient unbiased.
        scale_by_std: divide by the group's sample standard deviation plus 1e-4.

    Returns:
        (P, G), in the unit of the rewards, or without a unit if scaled; 0 for a group whose rewards are all equal.

    Raises:
        ValueError: the baseline is unknown, a group has fewer than two completions, or a reward is not finite.
    """
    if baseline not in BASELINES:
        raise ValueError(f"baseline must be one of {', '.join(BASELINES)}, got '{baseline}'")
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards must be (problems, completions >= 2), got {tuple(rewards.shape)}")
    if not torch.isfinite(rewards).all():
        raise ValueError("rewards has a value that is not finite")
    group = rewards.shape[1]
    mean = rewards.mean(dim=1, keepdim=True)
    if baseline == "leave_one_out":
        mean = (rewards.sum(dim=1, keepdim=True) - rewards) / (group - 1)
    advantages = rewards - mean
    if scale_by_std:
        advantages = advantages / (rewards.std(dim=1, keepdim=True) + 1e-4)
    return torch.where((rewards == rewards[:, :1]).all(dim=1, keepdim=True), 0.0, advantages)
