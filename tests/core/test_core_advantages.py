"""Group advantages by hand-worked numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nested_reft.core.advantages import group_advantages

REWARDS = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
STD = 0.5  # sample standard deviation of both rows: sqrt((9/16 + 3/16) / 3)


THIRD, SCALE = 1 / 3, 1 / (STD + 1e-4)


@pytest.mark.parametrize(
    ("switches", "large", "small"),  # of the completion that differs from the others, and of each of these
    [
        ({"baseline": "group_mean", "scale_by_std": False}, 0.75, 0.25),
        ({"baseline": "leave_one_out", "scale_by_std": False}, 1.0, THIRD),
        ({"baseline": "group_mean", "scale_by_std": True}, 0.75 * SCALE, 0.25 * SCALE),
        ({"baseline": "leave_one_out", "scale_by_std": True}, SCALE, THIRD * SCALE),
        ({}, 0.75 * SCALE, 0.25 * SCALE),  # the defaults are GRPO's
    ],
)
def test_advantages_by_hand(switches: dict[str, Any], large: float, small: float) -> None:
    expected = torch.tensor([[large, -small, -small, -small], [small, small, small, -large]], dtype=torch.float64)
    torch.testing.assert_close(group_advantages(REWARDS, **switches), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("baseline", ["group_mean", "leave_one_out"])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3])
def test_equal_rewards_have_advantages_of_exactly_zero(baseline: str, value: float) -> None:
    """0.1 and 1/3 have means that rounding moves; a standard deviation near 0 would blow that up."""
    advantages = group_advantages(torch.full((2, 7), value), baseline=baseline)
    assert torch.equal(advantages, torch.zeros(2, 7))


@given(
    rewards=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=8),
    baseline=st.sampled_from(["group_mean", "leave_one_out"]),
    scale=st.booleans(),
)
def test_advantages_sum_to_zero_and_keep_the_order_of_rewards(rewards: list[float], baseline: str, scale: bool) -> None:
    tensor = torch.tensor([rewards], dtype=torch.float64)
    advantages = group_advantages(tensor, baseline=baseline, scale_by_std=scale)[0].tolist()
    assert math.isclose(sum(advantages), 0, abs_tol=1e-9)
    for one, first in zip(rewards, advantages, strict=True):
        for other, second in zip(rewards, advantages, strict=True):
            assert (one > other) == (first > second + 1e-9)


@pytest.mark.parametrize(
    ("rewards", "baseline", "message"),
    [
        *((torch.zeros(shape), "group_mean", r"rewards must be \(problems, completions >= 2\)")
          for shape in ((3,), (2, 1), (2, 2, 2))),
        (REWARDS, "mean", "baseline must be one of group_mean, leave_one_out, got 'mean'"),
        (torch.tensor([[1.0, math.nan]]), "group_mean", "rewards has a value that is not finite"),
        (torch.tensor([[1.0, math.inf]]), "group_mean", "rewards has a value that is not finite"),
    ],
)  # fmt: skip
def test_an_argument_that_does_not_fit_is_named(rewards: Tensor, baseline: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_advantages(rewards, baseline=baseline)
