"""Group advantages by hand-worked numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nested_reft.core.advantages import group_advantages

REWARDS = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
STD = 0.5  # sample standard deviation of both rows: sqrt((9/16 + 3/16) / 3)


def close(actual: Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=actual.dtype), rtol=0, atol=1e-12)


def test_group_mean() -> None:
    close(
        group_advantages(REWARDS, baseline="group_mean", scale_by_std=False),
        [[0.75, -0.25, -0.25, -0.25], [0.25, 0.25, 0.25, -0.75]],
    )


def test_leave_one_out_subtracts_the_mean_of_the_others() -> None:
    third = 1 / 3
    close(
        group_advantages(REWARDS, baseline="leave_one_out", scale_by_std=False),
        [[1.0, -third, -third, -third], [third, third, third, -1.0]],
    )


@pytest.mark.parametrize(("baseline", "stretch"), [("group_mean", 1.0), ("leave_one_out", 4 / 3)])
def test_scaled_by_the_sample_standard_deviation(baseline: str, stretch: float) -> None:
    large, small = (stretch * share / (STD + 1e-4) for share in (0.75, 0.25))
    close(
        group_advantages(REWARDS, baseline=baseline, scale_by_std=True),
        [[large, -small, -small, -small], [small, small, small, -large]],
    )


def test_defaults_are_grpo_s() -> None:
    assert torch.equal(group_advantages(REWARDS), group_advantages(REWARDS, baseline="group_mean", scale_by_std=True))


@pytest.mark.parametrize("baseline", ["group_mean", "leave_one_out"])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3])
def test_equal_rewards_have_advantages_of_exactly_zero(baseline: str, value: float) -> None:
    """0.1 and 1/3 have means that rounding moves; a standard deviation near 0 would blow that up."""
    advantages = group_advantages(torch.full((2, 7), value), baseline=baseline)
    assert torch.equal(advantages, torch.zeros(2, 7))


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 2, 2)])
def test_rewards_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"rewards must be \(problems, completions >= 2\)"):
        group_advantages(torch.zeros(shape))


def test_an_unknown_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match="baseline must be one of group_mean, leave_one_out, got 'mean'"):
        group_advantages(REWARDS, baseline="mean")


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


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_is_refused(reward: float) -> None:
    with pytest.raises(ValueError, match="rewards has a value that is not finite"):
        group_advantages(torch.tensor([[1.0, reward]]))
