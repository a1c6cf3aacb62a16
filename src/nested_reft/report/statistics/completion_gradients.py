"""Bias and variance of gradient estimates from sums over problems, each with its expected gradients.

Problem p has the expected gradient a_p on-policy and o_p with a correction; <a, a>, <o, o> and <a, o> are products of
independent estimates, so that sums of them have no bias from noise. All quantities are ratios of sums over problems,
which weighs a problem by its squared norm. Intervals are delete-one jackknifes over problems.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nested_reft.report.statistics.gradients import exponential, jackknife, over, root, within_one
from nested_reft.report.statistics.intervals import Array, Interval

METHOD = "jackknife over problems"


@dataclass(frozen=True)
class Sums:
    """Of each of n >= 3 problems, all (n,): <a, a>, <o, o>, <a, o>, the mean squared norm of a single completion's
    estimate on-policy and corrected, and the probability under b of what was seen.
    """

    on_policy: Array
    own: Array
    cross: Array
    on_policy_moment: Array
    own_moment: Array
    covered: Array


def problem_bias(sums: Sums) -> Interval:
    """sqrt(sum |o - a|^2 / sum |a|^2)."""
    return root(jackknife(over(_totals(sums.own - 2 * sums.cross + sums.on_policy), _totals(sums.on_policy)), METHOD))


def scale(sums: Sums) -> Interval:
    """sum <o, a> / sum <a, a>: how long the corrected gradient is along the on-policy one."""
    return jackknife(over(_totals(sums.cross), _totals(sums.on_policy)), METHOD)


def direction(sums: Sums) -> Interval:
    """The cosine sum <o, a> / sqrt(sum |o|^2 sum |a|^2), in [-1, 1]."""
    norms = np.stack([_totals(sums.own), _totals(sums.on_policy)])
    norms[norms <= 0] = np.nan
    return within_one(jackknife(_totals(sums.cross) / np.sqrt(norms.prod(axis=0)), METHOD))


def variance_ratio(sums: Sums) -> Interval:
    """Variance of a single completion's estimate of its problem's gradient, o over a; jackknife on the log."""
    own, on_policy = sums.own_moment - sums.own, sums.on_policy_moment - sums.on_policy
    return exponential(jackknife(np.log(over(_totals(own), _totals(on_policy), above=0.0)), METHOD))


def unseen_bound(sums: Sums) -> float:
    """How much of the on-policy norm the completions that were not seen can make up, by Cauchy and Schwarz: the root of
    sum (1 - covered) E|g|^2 / sum |a|^2. What the estimates would lack if they had no weights for them.
    """
    unseen = np.maximum(1 - sums.covered, 0.0) @ sums.own_moment
    norm = float(sums.on_policy.sum())
    return math.sqrt(float(unseen) / norm) if norm > 0 else math.nan


def _totals(values: Array) -> Array:
    """The sum over all problems, then with each of them left out: (n + 1,)."""
    return np.asarray(values.sum() - np.concatenate([[0.0], values]), dtype=np.float64)
