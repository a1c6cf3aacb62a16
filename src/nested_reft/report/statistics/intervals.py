"""Statistics of the report: one pure function each, arrays in, an `Interval` out.

Every interval says what it is (`method`), over how many independent units (`n`) and at which level. With fewer than
two units there is no interval: `low` and `high` are NaN. The bootstraps are seeded, so a table made again is the same
table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Equivalence = Literal["equivalent", "worse", "better", "inconclusive", "no interval"]

LEVEL = 0.95
RESAMPLES = 5000
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; `low` and `high` are NaN if `n` units allow none."""

    estimate: float
    low: float
    high: float
    n: int
    level: float
    method: str

    @property
    def exists(self) -> bool:
        """Whether there is an interval at all."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def t_interval(values: Array, level: float = LEVEL) -> Interval:
    """Mean of `values` (n,) with Student's t interval: mean ± t_{n-1} s / sqrt(n)."""
    values = _units(values)
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Interval(mean, math.nan, math.nan, n, level, "t")
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n, level, "t")


def paired_difference(treatment: Array, control: Array, level: float = LEVEL) -> Interval:
    """Mean of treatment - control, both (n,) with the same seed at the same index: difference first, then t."""
    treatment, control = _paired(treatment, control)
    return t_interval(treatment - control, level)


def paired_ratio(treatment: Array, control: Array, level: float = LEVEL) -> Interval:
    """Geometric mean of treatment / control, both (n,), positive; exp of the log ratios' t interval."""
    treatment, control = _paired(treatment, control)
    log = t_interval(np.log(treatment / control), level)
    return Interval(math.exp(log.estimate), math.exp(log.low), math.exp(log.high), log.n, level, "t of log ratios")


def median_ratio(treatment: Array, control: Array, level: float = LEVEL) -> Interval:
    """Median of treatment / control over pairs, both (n,), with the percentile bootstrap over pairs."""
    treatment, control = _paired(treatment, control)
    return _bootstrap((treatment / control,), np.median, level, "bootstrap over pairs")


def interquartile_mean(scores: Array, axis: int | None = None) -> Any:
    """Mean of the middle half of `scores` (any shape); all of them at once, or along `axis` (Agarwal et al. 2021)."""
    return stats.trim_mean(scores, proportiontocut=0.25, axis=axis)


def stratified_bootstrap(scores: Array, statistic: Callable[..., Any], level: float = LEVEL) -> Interval:
    """`statistic` of `scores` (seeds, tasks), seeds resampled separately within each task (Agarwal et al. 2021).

    `statistic` takes an array and `axis`, as `np.mean` and `interquartile_mean` do; `n` counts the seeds.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"scores must be (seeds, tasks) and not empty, got shape {scores.shape}")
    return _bootstrap(tuple(scores.T), statistic, level, "bootstrap over seeds, stratified by task")


def equivalence(low: float, high: float, margin: float) -> Equivalence:
    """Whether an interval of differences is within ±margin (two one-sided tests, Schuirmann 1987).

    Not being within is not the same as differing: `worse` and `better` need the whole interval beyond the margin.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    if -margin <= low and high <= margin:
        return "equivalent"
    if high < -margin:
        return "worse"
    return "better" if low > margin else "inconclusive"


def _bootstrap(strata: tuple[Array, ...], statistic: Callable[..., Any], level: float, method: str) -> Interval:
    """Percentile bootstrap of a statistic of all strata together, each stratum (n,) resampled separately."""

    def of_strata(*samples: Array, axis: int) -> Any:
        return statistic(np.concatenate(samples, axis=axis), axis=axis)

    n = len(strata[0])
    estimate = float(of_strata(*strata, axis=-1))
    if n < 2:
        return Interval(estimate, math.nan, math.nan, n, level, method)
    interval = stats.bootstrap(
        strata,
        of_strata,
        n_resamples=RESAMPLES,
        confidence_level=level,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    ).confidence_interval
    return Interval(estimate, float(interval.low), float(interval.high), n, level, method)


def _units(values: Array) -> Array:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"need one value per unit, got shape {values.shape}")
    return values


def _paired(treatment: Array, control: Array) -> tuple[Array, Array]:
    treatment, control = _units(treatment), _units(control)
    if treatment.shape != control.shape:
        raise ValueError(f"not paired: {len(treatment)} against {len(control)} values")
    return treatment, control
