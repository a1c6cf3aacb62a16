"""Statistics against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_reft.report.statistics.gradients import Grams, relative_bias, variance_ratio
from nested_reft.report.statistics.intervals import (
    SQUARE,
    UNBOUNDED,
    Interval,
    Limits,
    accuracy_interval,
    against_zero,
    contradiction,
    crossed_difference,
    median_ratio,
    paired_difference,
    paired_ratio,
    score_interval,
    t_interval,
)


def test_t_interval_of_three_values() -> None:
    # mean 2, s = 1, t_{0.975, 2} = 4.302653: half-width 4.302653 / sqrt(3) = 2.484138
    interval = t_interval(np.array([1.0, 2.0, 3.0]))
    assert (interval.estimate, interval.n) == (2.0, 3)
    assert interval.low == pytest.approx(2 - 2.484138, abs=1e-6)
    assert interval.high == pytest.approx(2 + 2.484138, abs=1e-6)


@pytest.mark.parametrize(
    "interval",
    [
        t_interval(np.array([0.5])),
        paired_difference(np.array([0.7]), np.array([0.2])),
        paired_ratio(np.array([2.0]), np.array([4.0])),
        median_ratio(np.array([2.0]), np.array([4.0])),
        accuracy_interval(np.array([0.5]), 200),
    ],
)
def test_one_unit_has_an_estimate_and_no_interval(interval) -> None:
    assert interval.estimate == pytest.approx(0.5)
    assert interval.n == 1
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert not interval.exists


def test_paired_difference_takes_the_difference_before_the_interval() -> None:
    # The seeds differ by 0.3 from one another, the pairs by 0.01, 0.02 and 0.03.
    control = np.array([0.1, 0.4, 0.7])
    interval = paired_difference(control + np.array([0.01, 0.02, 0.03]), control)
    assert interval.estimate == pytest.approx(0.02)
    # artanh 0.02 = 0.020002667; its slope there 1 / (1 - 0.02^2) = 1.00040016; tanh(0.020002667 + 1.00040016 * half)
    assert interval.high == pytest.approx(math.tanh(0.020002667 + 1.00040016 * 0.02484138), abs=1e-8)
    assert interval.high == pytest.approx(0.02 + 0.02484138, abs=1e-4)  # nearly Student's t itself
    assert interval.method == "t on the artanh scale"


def test_unpaired_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="not paired: 2 against 3"):
        paired_difference(np.ones(2), np.ones(3))


def test_paired_ratio_is_a_geometric_mean() -> None:
    interval = paired_ratio(np.array([2.0, 8.0]), np.array([1.0, 2.0]))  # ratios 2 and 4
    assert interval.estimate == pytest.approx(math.sqrt(8))
    # log ratios: mean 1.5 log 2, s = log 2 / sqrt(2), t_{0.975, 1} = 12.7062, half-width 12.7062 * log(2) / 2
    assert interval.high == pytest.approx(math.sqrt(8) * 2 ** (12.7062 / 2), rel=1e-4)
    assert interval.low == pytest.approx(math.sqrt(8) / 2 ** (12.7062 / 2), rel=1e-4)


def test_median_ratio_is_the_median_of_ratios() -> None:
    interval = median_ratio(np.array([11.0, 24.0, 90.0]), np.array([10.0, 20.0, 30.0]))  # 1.1, 1.2, 3.0
    assert interval.estimate == pytest.approx(1.2)
    # Of 27 equally likely resamples 7 have median 1.1 and 7 median 3.0, each more than 2.5 %.
    assert (interval.low, interval.high) == pytest.approx((1.1, 3.0))


def test_the_bootstrap_interval_of_a_median_is_of_order_statistics() -> None:
    # Binomial: of 401 resampled values, the median is below the k-th smallest in 2.5 % at k = 200.5 - 19.6.
    ordered = np.sort(np.random.default_rng(2).normal(3, 0.1, size=401))
    interval = median_ratio(ordered, np.ones(401))
    assert ordered[178] <= interval.low <= ordered[183]
    assert ordered[217] <= interval.high <= ordered[222]


@pytest.mark.parametrize(
    ("low", "high", "verdict", "side"),
    [
        (-0.05, 0.05, "passes", "includes 0"),
        (0.01, 0.02, "passes", "above 0"),
        (-0.06, 0.01, "undecided", "includes 0"),
        (-0.20, 0.20, "undecided", "includes 0"),
        (-0.244, -0.04, "undecided", "below 0"),
        (-0.09, -0.051, "fails", "below 0"),
        (0.051, 0.09, "fails", "above 0"),
        (0.0, 0.04, "passes", "includes 0"),
        (math.nan, math.nan, "undecided", "no interval"),
    ],
)
def test_beyond_the_margin_and_below_zero_are_two_questions(low: float, high: float, verdict: str, side: str) -> None:
    found = Interval((low + high) / 2, low, high, 3, "t")
    assert Limits(-0.05, 0.05).judge(found) == verdict
    assert against_zero(found) == side


def test_the_p_value_of_a_limit_is_that_of_the_level_at_which_the_interval_reaches_it() -> None:
    # With 1 degree of freedom the t distribution is Cauchy's: P(T > t) = 1/2 - atan(t) / pi; its quantile is 12.7062.
    for halves in (1.0, 2.0, 5.0):
        found = Interval(1 + 0.2 * halves, 1 + 0.2 * (halves - 1), 1 + 0.2 * (halves + 1), 2, "t")
        expected = 0.5 - math.atan(12.7062047 * halves) / math.pi
        assert contradiction(found, Limits(high=1), UNBOUNDED) == pytest.approx(expected)
        below = Interval(-found.estimate, -found.high, -found.low, 2, "t")
        assert contradiction(below, Limits(low=-1), UNBOUNDED) == pytest.approx(expected)
    assert contradiction(Interval(1.2, 1, 1.4, 2, "t"), Limits(high=1), UNBOUNDED) == pytest.approx(0.025)
    # On the square 0.05, from 0.01 to 0.09: a half-width above the square of the limit.
    bias = Interval(0.05**0.5, 0.1, 0.3, 2, "jackknife")
    assert contradiction(bias, Limits(high=0.1), SQUARE) == pytest.approx(0.025)
    # Of unequal halves the longer counts, here 0.4.
    assert contradiction(Interval(1.4, 1.2, 1.8, 2, "t"), Limits(high=1), UNBOUNDED) == pytest.approx(0.025)


@pytest.mark.parametrize(
    "interval",
    [
        t_interval(np.full(3, 0.5)),
        paired_difference(np.array([0.7, 0.75]), np.array([0.2, 0.25])),
        paired_difference(np.zeros(3), np.zeros(3)),
        crossed_difference(np.zeros((3, 5))),
        paired_ratio(np.array([2.0, 1.0]), np.array([4.0, 2.0])),
        median_ratio(np.array([2.0, 1.0, 3.0]), np.array([4.0, 2.0, 6.0])),
        median_ratio(np.array([2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 9.0]), np.full(8, 4.0)),
        variance_ratio(Grams(*[np.eye(4)] * 5)),
        relative_bias(Grams(*[np.eye(4) + 1] * 5)),
        Interval(0.1, 0.1, 0.1, 3, "from a table"),
    ],
)
def test_values_that_are_all_equal_have_no_interval_and_decide_nothing(interval: Interval) -> None:
    """A quantity of which nothing is known but one value would otherwise be decided for certain."""
    assert interval.n > 1
    assert not interval.exists
    assert math.isnan(interval.low)
    assert Limits(-10, 10).judge(interval) == "undecided"


def test_accuracies_that_are_all_equal_still_vary_over_problems() -> None:
    assert accuracy_interval(np.zeros(3), 50).exists
    assert score_interval(0.0, 50).exists


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8, unique_by=lambda value: round(value, 3)), st.floats(-1, 1))
def test_t_interval_moves_with_its_values(values: list[float], shift: float) -> None:
    interval, moved = t_interval(np.array(values)), t_interval(np.array(values) + shift)
    assert interval.low <= interval.estimate <= interval.high
    assert moved.estimate == pytest.approx(interval.estimate + shift, abs=1e-9)
    assert moved.high - moved.low == pytest.approx(interval.high - interval.low, abs=1e-6)
