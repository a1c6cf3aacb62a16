"""Statistics of the report: one pure function each, arrays in, an `Interval` out.

Every interval is at `LEVEL`, and says what it is (`method`) and over how many independent units (`n`). With fewer than
two units, or with units that are all equal, there is no interval: `low` and `high` are NaN. The bootstrap is seeded, so
a table made again is the same table.

The interval of a bounded quantity stays within its bounds. It is not cut off there, which would leave the other end as
wrong as before: it is computed on a scale that has no bounds (`Scale`), or from a test that knows them (Wilson's).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[np.float64]
CellVerdict = Literal["passes", "fails", "undecided", "not assessable"]
AgainstZero = Literal["below 0", "above 0", "includes 0", "no interval"]

LEVEL = 0.95
RESAMPLES = 5000
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; `low` and `high` are NaN if `n` units allow none, or have no spread.

    `units`: the values (n,) whose mean it is, if it is one.
    """

    estimate: float
    low: float
    high: float
    n: int
    method: str
    units: Array | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Units that are all equal (as accuracies of 0 are; but for rounding) do not show how far others would be: that
        # decides nothing.
        if math.isclose(self.low, self.high, rel_tol=1e-9, abs_tol=1e-12):
            object.__setattr__(self, "low", math.nan)
            object.__setattr__(self, "high", math.nan)

    @property
    def exists(self) -> bool:
        """Whether there is an interval at all."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Limits:
    """The values that satisfy a claim: from `low` to `high`, both included."""

    low: float = -math.inf
    high: float = math.inf

    def judge(self, found: Interval) -> CellVerdict:
        """Passes if the whole interval is within the limits, fails if all of it is beyond one of them.

        What has no interval is undecided.
        """
        if self.low <= found.low and found.high <= self.high:
            return "passes"
        return "fails" if found.high < self.low or found.low > self.high else "undecided"

    def beyond(self, value: float) -> float:
        """How far a value is beyond the limit that it is nearest to; negative within."""
        return max(self.low - value, value - self.high)


@dataclass(frozen=True)
class Scale:
    """A scale on which a bounded quantity has no bounds; `slope` is the derivative of `to`, `back` its inverse."""

    method: str
    to: Callable[[float], float]
    slope: Callable[[float], float]
    back: Callable[[float], float]


UNBOUNDED = Scale("t", lambda x: x, lambda x: 1.0, lambda x: x)
POSITIVE = Scale("t on the log scale", np.log, lambda x: 1 / x, np.exp)
SHARE = Scale("t on the logit scale", special.logit, lambda x: 1 / (x * (1 - x)), special.expit)  # 0 to 1
SQUARE = Scale("t on the square", lambda x: x**2, lambda x: 2 * x, np.sqrt)
DIFFERENCE = Scale("t on the artanh scale", np.arctanh, lambda x: 1 / (1 - x**2), np.tanh)  # of two shares: -1 to 1


def t_interval(values: Array, scale: Scale = UNBOUNDED) -> Interval:
    """Mean of `values` (n,) with Student's t interval: mean ± t_{n-1} s / sqrt(n), added on `scale`.

    The standard error is carried to the scale by its slope at the mean (delta method).
    """
    values = _units(values)
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Interval(mean, math.nan, math.nan, n, scale.method, values)
    half = float(_quantile(n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Interval(mean, *_around(mean, half, scale), n, scale.method, values)


def score_interval(share: float, problems: float) -> Interval:
    """A share of `problems` with Wilson's (1927) score interval over problems, for a model that has no seed."""
    low, high = _wilson(share, problems, _quantile(problems - 1))
    return Interval(share, low, high, 1, "score over problems")


def accuracy_interval(accuracies: Array, problems: float) -> Interval:
    """Mean of `accuracies` (seeds,), all on the same problems, with an interval over seeds and problems, in [0, 1].

    Its variance is s^2 / n between the n seeds, plus p (1 - p) / problems, which is at least that between problems (so
    the interval is rather too wide than too narrow). Wilson's interval takes it as that of fewer problems, as for
    clusters of a survey (Franco et al. 2019). The two parts have n - 1 and problems - 1 degrees of freedom: the
    squares of their half-widths are added (Zou and Donner 2008), as one t quantile of Satterthwaite's degrees of
    freedom covers less than it says at two seeds. `tools/interval_coverage.py` measures how often it holds the truth.
    """
    accuracies = _units(accuracies)
    n, share = len(accuracies), float(accuracies.mean())
    method = "score over seeds and problems"
    if n < 2:
        return Interval(share, math.nan, math.nan, n, method)
    seeds, sampled = float(accuracies.var(ddof=1)) / n, share * (1 - share) / problems
    part = seeds / (seeds + sampled) if seeds else 0.0
    squared = part * _quantile(n - 1) ** 2 + (1 - part) * _quantile(problems - 1) ** 2
    low, high = _wilson(share, (1 - part) * problems, math.sqrt(squared))
    return Interval(share, low, high, n, method)


def paired_difference(treatment: Array, control: Array) -> Interval:
    """Mean of treatment - control, shares (n,) with the same seed at the same index: difference first, then t.

    On the scale of `DIFFERENCE`: hardly other numbers while differences are small, and never beyond ±1.
    """
    treatment, control = _paired(treatment, control)
    return t_interval(treatment - control, DIFFERENCE)


def crossed_difference(differences: Array) -> Interval:
    """Mean of `differences` (seeds, problems) of shares, each a pair of the same problem, over seeds and problems.

    The variance of the mean has a part between the seeds' means and one between the problems'. Both contain the chance
    of single answers, so the interval is rather too wide than too narrow. The squares of the two half-widths are added,
    as in `accuracy_interval`, on the scale of `DIFFERENCE`. `n` counts seeds.
    """
    if differences.ndim != 2 or not differences.size:
        raise ValueError(f"differences must have the shape (seeds, problems), got {differences.shape}")
    by_seed, by_problem = differences.mean(axis=1), differences.mean(axis=0)
    n, mean = len(by_seed), float(differences.mean())
    method = f"{DIFFERENCE.method}, over seeds and problems"
    if min(differences.shape) < 2:
        return Interval(mean, math.nan, math.nan, n, method)
    squared = [_quantile(len(part) - 1) ** 2 * part.var(ddof=1) / len(part) for part in (by_seed, by_problem)]
    return Interval(mean, *_around(mean, math.sqrt(sum(squared)), DIFFERENCE), n, method)


def paired_ratio(treatment: Array, control: Array) -> Interval:
    """Geometric mean of treatment / control, both (n,), positive; exp of the log ratios' t interval."""
    treatment, control = _paired(treatment, control)
    log = t_interval(np.log(treatment / control))
    return Interval(math.exp(log.estimate), math.exp(log.low), math.exp(log.high), log.n, "t of log ratios")


def median_ratio(treatment: Array, control: Array) -> Interval:
    """Median of treatment / control over pairs, both (n,), positive, with the percentile bootstrap over pairs."""
    treatment, control = _paired(treatment, control)
    ratios, method = treatment / control, "bootstrap over pairs"
    n, median = len(ratios), float(np.median(ratios))
    if n < 2:
        return Interval(median, math.nan, math.nan, n, method)
    interval = stats.bootstrap(
        (ratios,),
        np.median,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    ).confidence_interval
    return Interval(median, float(interval.low), float(interval.high), n, method)


def contradiction(found: Interval, limits: Limits, scale: Scale) -> float:
    """One-sided p-value of an interval that is wholly beyond one of the limits: how far the limit is from the estimate.

    The interval is taken as Student's t of n - 1 degrees of freedom on `scale`; of unequal halves the longer counts.
    """
    limit = limits.high if found.estimate > limits.high else limits.low
    estimate, low, high, far = (float(scale.to(value)) for value in (found.estimate, found.low, found.high, limit))
    halves = abs(estimate - far) / max(estimate - low, high - estimate)
    return float(stats.t.sf(halves * _quantile(found.n - 1), found.n - 1))


def against_zero(found: Interval) -> AgainstZero:
    """On which side of 0 the whole interval is: another question than equivalence, and another answer."""
    if not found.exists:
        return "no interval"
    return "below 0" if found.high < 0 else "above 0" if found.low > 0 else "includes 0"


def _around(mean: float, half: float, scale: Scale) -> tuple[float, float]:
    """mean ± half, added on `scale`."""
    if half == 0:
        return mean, mean  # also at a bound, where there is no slope
    low, high = (float(scale.back(scale.to(mean) + side * half * scale.slope(mean))) for side in (-1, 1))
    return low, high


def _wilson(share: float, problems: float, quantile: float) -> tuple[float, float]:
    """The shares p with (share - p)^2 <= quantile^2 p (1 - p) / problems; the bounds 0 and 1 are exact."""

    def lower(share: float) -> float:
        squared = quantile**2 / problems
        middle, half = share + squared / 2, math.sqrt(squared * max(share * (1 - share), 0) + squared**2 / 4)
        return share**2 / (middle + half)  # of both roots' product, which is stable; their sum is not

    return lower(share), 1 - lower(1 - share)


@cache
def _quantile(freedom: float) -> float:
    """Student's t; cached, as simulations ask for the same ones again and again."""
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))


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
