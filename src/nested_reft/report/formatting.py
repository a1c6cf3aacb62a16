"""How the tables that people read put numbers into text."""

from __future__ import annotations

import math
from collections.abc import Callable

from nested_reft.report.statistics.intervals import Interval

NOT_RUN = "not run"
# Measured, and the noise leaves no number to give.
NOT_RESOLVED = "not resolved"


def with_interval(interval: Interval | None, show: Callable[[float], str]) -> str:
    """ "1.20 [1.10, 1.30]", with `show` for each number; says so where nothing was run or nothing can be told."""
    if interval is None:
        return NOT_RUN
    if math.isnan(interval.estimate):
        return NOT_RESOLVED
    bounds = f" [{show(interval.low)}, {show(interval.high)}]" if interval.exists else ""
    return f"{show(interval.estimate)}{bounds}"


def ratio(interval: Interval | None) -> str:
    """A ratio with its interval."""
    return with_interval(interval, lambda value: f"{value:.2f}")


def points(interval: Interval | None) -> str:
    """A difference of shares in percentage points, with its interval."""
    return with_interval(interval, lambda value: f"{100 * value:+.1f}")
