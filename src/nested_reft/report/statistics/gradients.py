"""Bias and variance of gradient estimates, from the inner products of one estimate per batch of problems.

There are n batches. Each batch j has three estimates of the gradient: a_j on-policy, r_j on-policy again, and o_j from
the nested model's rollouts, corrected. All three are of the same problems, and o_j is sampled with the random numbers
of a_j, so that most of the noise cancels in o_j - a_j; different batches are independent. So a product of two different
batches is, in expectation, the product of the expectations, without noise: means over j != k (U-statistics) are
unbiased, means over all j, k are not.

Intervals are delete-one jackknifes over batches (batch j is left out of all sets at once) with Student's t of n - 1
degrees of freedom. If there is no bias at all, the squared bias is a degenerate U-statistic, whose standard error the
jackknife overstates by about the square root of 2 (Arvesen 1969): "unbiased" is then harder to show, not easier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy import stats

from nested_reft.report.statistics.intervals import LEVEL, Array, Interval, Limits

BiasVerdict = Literal["unbiased", "biased", "inconclusive", "not resolved"]

METHOD = "jackknife over batches"


@dataclass(frozen=True)
class Bias(Interval):
    """A relative bias, and `noise`: how far the plain means of two on-policy sets are apart, which have no bias."""

    noise: float = field(kw_only=True)


@dataclass(frozen=True)
class Grams:
    """Inner products (n, n) over n >= 3 batches: <a_j, a_k>, <r_j, r_k>, <a_j, r_k>, <o_j, o_k> and <a_j, o_k>."""

    on_policy: Array
    repeat: Array
    on_policy_repeat: Array
    own: Array
    cross: Array

    @property
    def control(self) -> Grams:
        """The same with the on-policy repeat in place of the corrected estimate: unbiased by construction.

        It is sampled with its own random numbers, so it is noisier than a corrected estimate.
        """
        return replace(self, own=self.repeat, cross=self.on_policy_repeat)


def plug_in_bias(grams: Grams) -> float:
    """||mean o - mean a|| / ||mean a||, in which the noise of both means counts as bias; NaN if mean a is 0."""
    squared_norm = float(grams.on_policy.sum())
    if squared_norm <= 0:
        return math.nan
    return math.sqrt(max(float(_differences(grams).sum()), 0.0) / squared_norm)


def relative_bias(grams: Grams) -> Interval:
    """||E o - E a|| / ||E a|| without the noise: the root of unbiased squared bias over unbiased squared norm.

    The squared norm is that of a and r pooled, of which there are twice as many. The root of the estimate and of its
    bounds is taken last. A negative square has no root: the estimate is NaN. A bound below 0 holds no possible bias, so
    that nothing is lost by 0 in its place. All are NaN if the squared norm is not positive: the gradient itself is lost
    in the noise.
    """
    return root(jackknife(over(_across(_differences(grams)), _across(_pooled(grams))), METHOD))


def scale(grams: Grams) -> Interval:
    """<E o, E a> / ||E a||^2 without the noise: how long the corrected gradient is along the on-policy one. An
    optimizer that normalises gradients, such as AdamW, hardly sees it. NaN if the squared norm is not positive.
    """
    return jackknife(over(_across(grams.cross), _across(_pooled(grams))), METHOD)


def cosine(grams: Grams) -> Interval:
    """<E o, E a> / (||E o|| ||E a||) without the noise, in [-1, 1]; NaN if a squared norm is not positive."""
    squared_norms = np.stack([_across(grams.own), _across(_pooled(grams))])
    # A product of two negative squares would look positive.
    squared_norms[squared_norms <= 0] = np.nan
    return within_one(jackknife(_across(grams.cross) / np.sqrt(squared_norms.prod(axis=0)), METHOD))


def variance_ratio(grams: Grams) -> Interval:
    """Trace of the covariance of one batch's estimate, o over on-policy (mean of a's and r's); jackknife on the log.

    NaN if a trace is not positive.
    """
    on_policy = (_variance(grams.on_policy) + _variance(grams.repeat)) / 2
    return exponential(jackknife(np.log(over(_variance(grams.own), on_policy, above=0.0)), METHOD))


def bias_verdict(bias: Bias, margin: float) -> BiasVerdict:
    """Unbiased: the whole interval of the relative bias is within `margin`. Biased: all of it is above.

    Not resolved: neither, and the noise is above `margin` too, or hides the gradient itself. Inconclusive: neither.
    """
    judged = Limits(high=margin).judge(bias)
    if judged != "undecided":
        return "unbiased" if judged == "passes" else "biased"
    return "inconclusive" if bias.exists and bias.noise <= margin else "not resolved"


# --- what estimators of either kind share


def over(numerator: Array, denominator: Array, above: float = -np.inf) -> Array:
    """The ratio; NaN if the denominator is not positive or the numerator not above `above`."""
    defined = (denominator > 0) & (numerator > above)
    return np.asarray(
        np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=defined), dtype=np.float64
    )


def jackknife(values: Array, method: str) -> Interval:
    """Estimate and interval from the n + 1 values of a statistic, from all n units and with each of them left out; no
    interval if one of them is NaN.
    """
    left_out = values[1:]
    n = len(left_out)
    error = math.sqrt((n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum()))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error
    estimate = float(values[0])
    return Interval(estimate, estimate - half, estimate + half, n, method)


def root(squared: Interval) -> Interval:
    """The root of an estimate and of its bounds; that of a negative estimate is NaN, that of a negative bound 0."""
    low, high = np.sqrt(np.maximum([squared.low, squared.high], 0))
    estimate = math.sqrt(squared.estimate) if squared.estimate >= 0 else math.nan
    return replace(squared, estimate=estimate, low=float(low), high=float(high))


def within_one(found: Interval) -> Interval:
    """Cut off at -1 and 1, beyond which there is no cosine."""
    low, estimate, high = np.clip([found.low, found.estimate, found.high], -1, 1)
    return replace(found, estimate=float(estimate), low=float(low), high=float(high))


def exponential(log: Interval) -> Interval:
    """From the log scale to that of ratios."""
    return replace(log, estimate=math.exp(log.estimate), low=math.exp(log.low), high=math.exp(log.high))


# --- of batches: each gives n + 1 values, one from all n batches, then one with each batch left out


def _across(products: Array) -> Array:
    """Mean product (n + 1,) of two different batches."""
    n = len(products)
    between = (products + products.T) / 2
    np.fill_diagonal(between, 0)
    totals = between.sum() - np.concatenate([[0.0], 2 * between.sum(axis=1)])
    return np.asarray(totals / np.array([n * (n - 1), *[(n - 1) * (n - 2)] * n]), dtype=np.float64)


def _variance(products: Array) -> Array:
    """Trace (n + 1,) of the sample covariance: the mean squared norm less the squared norm of the expectation."""
    squares = np.diag(products)
    left_out = (squares.sum() - squares) / (len(squares) - 1)
    return np.asarray(np.concatenate([[squares.mean()], left_out]) - _across(products), dtype=np.float64)


def _differences(grams: Grams) -> Array:
    """<o_j - a_j, o_k - a_k>."""
    return grams.own - grams.cross - grams.cross.T + grams.on_policy


def _pooled(grams: Grams) -> Array:
    """<m_j, m_k> of the on-policy means m_j = (a_j + r_j) / 2."""
    cross = grams.on_policy_repeat
    return (grams.on_policy + grams.repeat + cross + cross.T) / 4
