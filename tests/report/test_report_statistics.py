"""Statistics against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_reft.report.statistics.intervals import (
    equivalence,
    interquartile_mean,
    median_ratio,
    paired_difference,
    paired_ratio,
    stratified_bootstrap,
    t_interval,
)


def test_t_interval_of_three_values() -> None:
    # mean 2, s = 1, t_{0.975, 2} = 4.302653: half-width 4.302653 / sqrt(3) = 2.484138
    interval = t_interval(np.array([1.0, 2.0, 3.0]))
    assert (interval.estimate, interval.n, interval.level) == (2.0, 3, 0.95)
    assert interval.low == pytest.approx(2 - 2.484138, abs=1e-6)
    assert interval.high == pytest.approx(2 + 2.484138, abs=1e-6)


@pytest.mark.parametrize(
    "interval",
    [
        t_interval(np.array([0.5])),
        paired_difference(np.array([0.7]), np.array([0.2])),
        paired_ratio(np.array([2.0]), np.array([4.0])),
        median_ratio(np.array([2.0]), np.array([4.0])),
        stratified_bootstrap(np.array([[0.5, 0.5]]), np.mean),
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
    assert interval.high == pytest.approx(0.02 + 0.02484138, abs=1e-8)


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


def test_interquartile_mean_drops_a_quarter_at_each_end() -> None:
    assert interquartile_mean(np.array([[100.0, 1.0], [2.0, 3.0], [4.0, -50.0], [5.0, 6.0]])) == pytest.approx(3.5)


def test_bootstrap_resamples_within_tasks_only() -> None:
    # Tasks differ, seeds do not: resampling within a task changes nothing, across tasks it would.
    scores = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    interval = stratified_bootstrap(scores, np.mean)
    assert (interval.low, interval.estimate, interval.high) == (0.5, 0.5, 0.5)
    assert interval.n == 3


def test_bootstrap_is_the_same_every_time() -> None:
    scores = np.random.default_rng(1).random((5, 4))
    first = stratified_bootstrap(scores, interquartile_mean)
    assert first == stratified_bootstrap(scores, interquartile_mean)
    assert first.low < first.estimate < first.high
    assert first.estimate == pytest.approx(interquartile_mean(scores))


def test_bootstrap_interval_of_a_mean_is_near_its_standard_error() -> None:
    scores = np.random.default_rng(2).normal(size=(400, 1))
    interval = stratified_bootstrap(scores, np.mean)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * scores.std() / 20, rel=0.06)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.05, 0.05, "equivalent"),
        (-0.01, 0.02, "equivalent"),
        (-0.06, 0.01, "inconclusive"),
        (-0.20, 0.20, "inconclusive"),
        (-0.09, -0.051, "worse"),
        (0.051, 0.09, "better"),
        (math.nan, math.nan, "no interval"),
    ],
)
def test_equivalence(low: float, high: float, verdict: str) -> None:
    assert equivalence(low, high, 0.05) == verdict


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8), st.floats(-1, 1))
def test_t_interval_moves_with_its_values(values: list[float], shift: float) -> None:
    interval, moved = t_interval(np.array(values)), t_interval(np.array(values) + shift)
    assert interval.low <= interval.estimate <= interval.high
    assert moved.estimate == pytest.approx(interval.estimate + shift, abs=1e-9)
    assert moved.high - moved.low == pytest.approx(interval.high - interval.low, abs=1e-6)
