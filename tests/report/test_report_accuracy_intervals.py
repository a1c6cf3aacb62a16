"""Intervals of bounded quantities: by hand, at their bounds, and how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from interval_coverage import Setting, coverage, coverage_of_differences
from scipy import stats

from nested_reft.report.statistics.comparisons import accuracy_of
from nested_reft.report.statistics.intervals import (
    POSITIVE,
    SHARE,
    accuracy_interval,
    crossed_difference,
    paired_difference,
    score_interval,
    t_interval,
)

shares = st.floats(0, 1)


def test_an_interval_over_problems_is_wilsons() -> None:
    # 3 of 10 with t_{0.975, 9} = 2.262157, t^2 / 10 = 0.5117354: (0.3 + 0.2558677 ± root) / 1.5117354,
    # root = sqrt(0.5117354 * 0.21 + 0.2558677^2) = sqrt(0.1074644 + 0.0654683) = 0.4158518
    interval = score_interval(0.3, 10)
    assert interval.low == pytest.approx((0.5558677 - 0.4158518) / 1.5117354, abs=1e-6)
    assert interval.high == pytest.approx((0.5558677 + 0.4158518) / 1.5117354, abs=1e-6)
    assert (interval.estimate, interval.n, interval.method) == (0.3, 1, "score over problems")


def test_an_interval_over_seeds_and_problems() -> None:
    # Two seeds: mean 0.5, s^2 = 0.02, so 0.01 between seeds; 0.25 / 100 = 0.0025 between problems. Of the variance 4/5
    # is the seeds', and the effective number of problems is 100 / 5 = 20.
    # quantile^2: 0.8 * 12.706205^2 + 0.2 * 1.984217^2 = 129.15811 + 0.78742 = 129.94553; over 20: 6.497277
    interval = accuracy_interval(np.array([0.4, 0.6]), 100)
    half = math.sqrt(6.497277 * 0.25 + 6.497277**2 / 4) / (1 + 6.497277)
    assert (interval.low, interval.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert (interval.n, interval.method) == (2, "score over seeds and problems")


def test_equal_seeds_leave_what_varies_between_problems() -> None:
    same = accuracy_interval(np.array([0.3, 0.3, 0.3]), 10)
    wilson = score_interval(0.3, 10)
    assert (same.low, same.high) == (wilson.low, wilson.high)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_or_all_right_is_a_bound_and_leaves_room_on_one_side(share: float) -> None:
    interval = accuracy_interval(np.full(3, share), 50)
    room = stats.t.ppf(0.975, 49) ** 2 / 50
    expected = (0.0, room / (1 + room)) if share == 0 else (1 - room / (1 + room), 1.0)
    assert (interval.low, interval.high) == pytest.approx(expected)
    assert share in (interval.low, interval.high)  # exactly


positive = st.floats(1e-6, 1 - 1e-6)
INTERVALS = {  # what is drawn, its interval, and the bounds of the quantity
    "accuracy": (shares, lambda x: accuracy_interval(x, 50), 0, 1),
    "difference": (shares, lambda x: paired_difference(x[::2], x[1::2]), -1, 1),
    "difference over problems": (shares, lambda x: crossed_difference(x.reshape(2, -1)), -1, 1),
    "KL": (positive, lambda x: t_interval(x, scale=POSITIVE), 0, math.inf),
    "effective sample size": (positive, lambda x: t_interval(x, scale=SHARE), 0, 1),
}


@pytest.mark.parametrize("quantity", INTERVALS)
@given(data=st.data())
def test_no_interval_reaches_beyond_the_bounds_of_its_quantity(quantity: str, data: st.DataObject) -> None:
    drawn, interval_of, low, high = INTERVALS[quantity]
    interval = interval_of(np.array(data.draw(st.lists(drawn, min_size=6, max_size=6))))
    assume(interval.exists)
    assert low <= interval.low <= interval.estimate * (1 + 1e-9) + 1e-12
    assert interval.estimate * (1 - 1e-9) - 1e-12 <= interval.high <= high


def test_values_at_a_bound_have_no_scale_and_no_interval() -> None:
    for scale, bound in ((POSITIVE, 0.0), (SHARE, 1.0)):
        interval = t_interval(np.full(3, bound), scale=scale)
        assert interval.estimate == bound
        assert not interval.exists


def test_a_model_without_a_seed_has_an_interval_over_problems_only() -> None:
    pretrained = pd.DataFrame({"seed": pd.array([pd.NA], dtype="Int64"), "value": [0.3], "n": [10]})
    assert accuracy_of(pretrained) == score_interval(0.3, 10)
    tuned = pd.DataFrame({"seed": pd.array([1, 2], dtype="Int64"), "value": [0.3, 0.4], "n": [10, 10]})
    assert accuracy_of(tuned) == accuracy_interval(np.array([0.3, 0.4]), 10)
    one = accuracy_of(tuned.iloc[:1])
    assert one is not None
    assert not one.exists
    assert accuracy_of(tuned.iloc[:0]) is None


# The whole grid is in tools/interval_coverage.py, its extremes are here. 600 repeats have a standard error of 0.9
# points at 95 %.
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("problems", [50, 300])
@pytest.mark.parametrize("accuracy", [0.05, 0.11, 0.5, 0.9])
@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_intervals_of_accuracies_hold_them_as_often_as_they_say(
    seeds: int, problems: int, accuracy: float, spread: float
) -> None:
    for correlation in (0.0, 0.9):
        setting = Setting(spread, seeds, problems, correlation, answers=1)
        ((held, _),) = coverage((accuracy_interval,), accuracy, setting, repeats=600)
        assert held >= 0.95


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_of_differences_hold_them_as_often_as_they_say(seeds: int) -> None:
    held, _ = coverage_of_differences((0.5, 0.45), Setting(0.05, seeds, 200, 0.5, answers=4), repeats=600)
    assert 0.93 <= held <= 0.97
