"""How numbers are written in the tables for people."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from nested_reft.report.statistics.gradients import Bias, bias_verdict
from nested_reft.report.statistics.intervals import Interval

NOT_RUN = "not run"
NO_NESTED_RUNS = "Not run: the configuration has no nested runs, only the baseline."
# Measured, but lost in the noise.
NOT_RESOLVED = "not resolved"


def with_interval(interval: Interval | None, show: Callable[[float], str]) -> str:
    """ "1.20 [1.10, 1.30]", with `show` for each number; says so if nothing was run or the noise hides it."""
    if interval is None:
        return NOT_RUN
    estimate = NOT_RESOLVED if math.isnan(interval.estimate) else show(interval.estimate)
    return f"{estimate} [{show(interval.low)}, {show(interval.high)}]" if interval.exists else estimate


def relative_bias(bias: Bias | None, margin: float, show: Callable[[float], str]) -> str:
    """The same of a relative bias, without an estimate if the noise leaves none, or does not let it be judged."""
    if bias and bias_verdict(bias, margin) == NOT_RESOLVED:
        return with_interval(replace(bias, estimate=math.nan), show)
    if bias and math.isnan(bias.estimate):
        return f"≤ {show(bias.high)}"
    return with_interval(bias, show)


def two_digits(value: float) -> str:
    """With two digits after the point, or as a power of ten: variances of unbounded weights have no other bound."""
    return f"{value:.2f}" if abs(value) < 10_000 else f"{value:.0e}"


def ratio(interval: Interval | None) -> str:
    """A ratio with its interval."""
    return with_interval(interval, two_digits)


def percent(interval: Interval | None) -> str:
    """A share in percent, with its interval."""
    return with_interval(interval, lambda value: f"{100 * value:.1f}")


def points(interval: Interval | None) -> str:
    """A difference of shares in percentage points, with its interval."""
    return with_interval(interval, lambda value: f"{100 * value:+.1f}")
