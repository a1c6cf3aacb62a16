"""The verifiable reward: 1 for the right answer, 0 otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nested_reft.config.reward import Reward
from nested_reft.core.rollout import Rollout
from nested_reft.data.records import Problem
from nested_reft.grading.grader import grade
from nested_reft.rollouts.policy import Policy


def rollout_rewards(policy: Policy, rollout: Rollout, problems: Sequence[Problem], reward: Reward) -> Tensor:
    """The reward of each completion of a rollout on `problems`: (P, G) on the CPU."""
    group = rollout.group_size
    rewards = [
        float(grade(text, problems[row // group].answer, reward.answer))
        for row, text in enumerate(policy.responses(rollout))
    ]
    return torch.tensor(rewards).view(len(problems), group)
