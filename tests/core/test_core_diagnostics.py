"""The distances between the policies by hand-worked numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nested_reft.core.diagnostics import QUANTILES, effective_sample_size, off_policy_diagnostics, quantiles

LOG2 = math.log(2)


# rho is 1/2, 2 and 1; the fourth token is masked, as is a whole third completion.
TARGET = torch.tensor([[-1 - LOG2, -2 + LOG2], [-3.0, math.nan], [math.nan, 0.0]], dtype=torch.float64)
BEHAVIOR = torch.tensor([[-1.0, -2.0], [-3.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True], [True, False], [False, False]])


def test_every_number_of_tokens_by_hand() -> None:
    expected = {
        "kl_k1": 0.0,  # (log 2 - log 2 - 0) / 3
        "kl_k3": 0.5 / 3,  # (1/2 - 1 + log 2) + (2 - 1 - log 2) + 0
        "chi2": (0.25 + 1 + 0) / 3,
        "ess": 3.5**2 / (3 * (0.25 + 4 + 1)),
        "clip_fraction": 2 / 3,
        "ratio_mean": 3.5 / 3,
        "ratio_min": 0.5,
        "ratio_max": 2.0,
        # linear between the sorted 1/2, 1, 2, which are at 0, 0.5 and 1
        "ratio_q01": 0.51,
        "ratio_q05": 0.55,
        "ratio_q50": 1.0,
        "ratio_q95": 1.9,
        "ratio_q99": 1.98,
    }
    actual = off_policy_diagnostics(TARGET, BEHAVIOR, MASK)
    assert {name for name in actual if not name.endswith("_sequence")} == expected.keys()
    for name, value in expected.items():
        assert actual[name] == pytest.approx(value, abs=1e-12), name


def test_every_number_of_completions_by_hand() -> None:
    """With the first token's ratio 2 too, the products are 4 and 1."""
    target = TARGET.clone()
    target[0, 0] = BEHAVIOR[0, 0] + LOG2
    expected = {
        "kl_k1": -math.log(4) / 2,
        "kl_k3": (4 - 1 - math.log(4)) / 2,
        "chi2": 9 / 2,
        "ess": 25 / (2 * 17),
        "clip_fraction": 1 / 2,
        "ratio_mean": 2.5,
        "ratio_min": 1.0,
        "ratio_max": 4.0,
        "ratio_q01": 1.03,
        "ratio_q05": 1.15,
        "ratio_q50": 2.5,
        "ratio_q95": 3.85,
        "ratio_q99": 3.97,
    }
    actual = off_policy_diagnostics(target, BEHAVIOR, MASK)
    assert {name.removesuffix("_sequence") for name in actual if name.endswith("_sequence")} == expected.keys()
    for name, value in expected.items():
        assert actual[f"{name}_sequence"] == pytest.approx(value, abs=1e-12), name


def test_equal_policies_are_at_distance_zero() -> None:
    logp = torch.tensor([[-1.0, -2.0, -3.0]])
    actual = off_policy_diagnostics(logp, logp, torch.ones_like(logp))
    zero = {name for name, value in actual.items() if value == 0}
    distances = ("kl_k1", "kl_k3", "chi2", "clip_fraction")
    assert zero == {*distances, *(f"{name}_sequence" for name in distances)}
    assert all(actual[name] == pytest.approx(1, abs=1e-12) for name in actual.keys() - zero)


def test_the_clip_range_is_the_caller_s_and_its_bounds_are_inside() -> None:
    target = torch.tensor([[0.5, 0.9, 1.4, 3.0]], dtype=torch.float64).log()
    for low, high, expected in [(0.2, 0.2, 0.75), (0.6, 0.5, 0.25), (0.6, 2.5, 0.0), (0.01, 0.01, 1.0)]:
        actual = off_policy_diagnostics(
            target, torch.zeros_like(target), torch.ones_like(target), clip_low=low, clip_high=high
        )
        assert actual["clip_fraction"] == expected


def test_diagnostics_need_a_valid_token() -> None:
    with pytest.raises(ValueError, match="mask has no valid token"):
        off_policy_diagnostics(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("weights", "expected"), [([1, 1, 1, 1], 1.0), ([1, 0, 0, 0], 0.25), ([3, 1], 16 / 20), ([1e-300, 1e-300], 1.0)]
)
def test_effective_sample_size(weights: list[float], expected: float) -> None:
    assert effective_sample_size(torch.tensor(weights, dtype=torch.float64).log()) == pytest.approx(expected)


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=10), st.floats(-300, 300))
def test_the_sample_size_lies_between_one_and_all_and_ignores_a_common_factor(
    log_weights: list[float], shift: float
) -> None:
    tensor = torch.tensor(log_weights, dtype=torch.float64)
    size = effective_sample_size(tensor)
    assert 1 / len(log_weights) - 1e-9 <= size <= 1 + 1e-9
    assert effective_sample_size(tensor + shift) == pytest.approx(size, rel=1e-9)


@given(st.lists(st.tuples(st.floats(-8, 0), st.floats(-8, 0)), min_size=1, max_size=8))
def test_k3_and_chi_square_are_never_negative(pairs: list[tuple[float, float]]) -> None:
    target, behavior = (torch.tensor([part], dtype=torch.float64) for part in zip(*pairs, strict=True))
    actual = off_policy_diagnostics(target, behavior, torch.ones_like(target))
    assert actual["kl_k3"] >= -1e-12
    assert actual["chi2"] >= 0
    assert actual["ratio_min"] <= actual["ratio_q50"] <= actual["ratio_max"]


@pytest.mark.parametrize("count", [1, 2, 3, 100, 12_345])
def test_quantiles_are_torch_s_to_the_last_bit(count: int) -> None:
    values = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(count)).exp()
    expected = torch.quantile(values, torch.tensor([percent / 100 for percent in QUANTILES], dtype=torch.float64))
    assert quantiles(values, QUANTILES) == expected.tolist()


def test_more_tokens_than_torch_s_quantile_takes() -> None:
    """2^24 is its limit; half of the ratios are 1 and half 2."""
    values = torch.ones(2**24 + 2, dtype=torch.float64)
    values[1::2] = 2.0
    assert quantiles(values, QUANTILES) == [1.0, 1.0, 1.5, 2.0, 2.0]
