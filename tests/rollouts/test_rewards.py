"""The reward of a rollout: which answers count is a setting."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from nested_reft.config.reward import Reward
from nested_reft.data.records import Problem
from nested_reft.rollouts.rewards import rollout_rewards

TEXTS = ["So it is 5.", r"\boxed{5}", "So it is 6.", r"\boxed{7}"]


@pytest.mark.parametrize(
    ("reward", "expected"),
    [(Reward(), [[1, 1], [0, 1]]), (Reward(answer="marked"), [[0, 1], [0, 1]])],
)
def test_an_answer_without_a_mark_counts_or_not(reward: Reward, expected: list[list[int]]) -> None:
    policy = cast(Any, SimpleNamespace(responses=lambda rollout: TEXTS))
    rollout = cast(Any, SimpleNamespace(group_size=2))
    problems = [Problem("a", "?", "5"), Problem("b", "?", "7")]
    assert rollout_rewards(policy, rollout, problems, reward).tolist() == expected
