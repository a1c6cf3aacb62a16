"""How often the intervals of accuracies and of their differences hold the truth, by simulation.

    python tools/interval_coverage.py                 # the whole grid, a few minutes
    python tools/interval_coverage.py --repeats 100   # a trial

One accuracy: seeds and problems vary. A seed's accuracy is drawn about the true one with a standard deviation, and
problem j is right in one answer of seed i if a normal number, shared by all seeds up to a correlation, says so: with
correlation 0 every seed fails at other problems, near 1 all at the same ones. One difference: the problems are fixed,
as in the report, and seeds and answers vary. One gain over the model that all seeds started from: problems vary too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy import stats

from nested_reft.report.statistics.intervals import (
    Array,
    Interval,
    accuracy_interval,
    crossed_difference,
    paired_difference,
    t_interval,
)

SEEDS, PROBLEMS = (2, 3, 5), (16, 50, 100, 300, 1000)
ACCURACIES, SPREADS = (0.05, 0.11, 0.5, 0.9), (0.0, 0.02, 0.05)
CORRELATIONS, ANSWERS = (0.0, 0.5, 0.9), (1, 4)  # answers per problem: greedy and sampled accuracy
Method = Callable[[Array, int], Interval]


def seeds_accuracies(accuracy: float, spread: float, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """True accuracies of seeds, of beta distributions with that mean and standard deviation."""
    if not spread:
        return np.full(shape, accuracy)
    size = accuracy * (1 - accuracy) / spread**2 - 1
    return rng.beta(accuracy * size, (1 - accuracy) * size, shape)


def answered(true: Array, difficulty: Array, correlation: float, answers: int, rng: np.random.Generator) -> Array:
    """Share of right answers (repeats, seeds, problems) of seeds with these true accuracies (repeats, seeds), to
    problems of this `difficulty` (repeats, problems).
    """
    difficulty, threshold = np.sqrt(correlation) * difficulty[:, None], stats.norm.ppf(true)[..., None]
    right = np.zeros((*true.shape, difficulty.shape[-1]))
    for _ in range(answers):
        right += difficulty + np.sqrt(1 - correlation) * rng.standard_normal(right.shape) < threshold
    return right / answers


def measured(true: Array, difficulty: Array, correlation: float, answers: int, rng: np.random.Generator) -> Array:
    """Accuracies (repeats, seeds) over all problems."""
    return np.asarray(answered(true, difficulty, correlation, answers, rng).mean(axis=-1), dtype=np.float64)


class Setting(NamedTuple):
    """Of a simulated experiment: the standard deviation between seeds, and how alike the seeds' wrong answers are."""

    spread: float
    seeds: int
    problems: int
    correlation: float
    answers: int


def coverage(methods: Sequence[Method], accuracy: float, setting: Setting, repeats: int) -> list[tuple[float, float]]:
    """For each method, the share of intervals that hold `accuracy`, and their median width."""
    spread, seeds, problems, correlation, answers = setting
    rng = np.random.default_rng(0)
    found: list[list[Interval]] = [[] for _ in methods]
    for _ in range(-(-repeats // 100)):  # so many at a time, for memory
        true = seeds_accuracies(accuracy, spread, (100, seeds), rng)
        rows = measured(true, rng.standard_normal((100, problems)), correlation, answers, rng)
        for method, intervals in zip(methods, found, strict=True):
            intervals += [method(row, problems) for row in rows]
    return [_held(intervals, np.full(len(intervals), accuracy)) for intervals in found]


def coverage_of_differences(accuracies: tuple[float, float], setting: Setting, repeats: int) -> tuple[float, float]:
    """The share of intervals that hold the difference of two models on the same fixed problems, and their width."""
    spread, seeds, problems, correlation, answers = setting
    rng = np.random.default_rng(0)
    found, truths = [], []
    for _ in range(-(-repeats // 100)):
        difficulty = rng.standard_normal((100, problems))
        control, treatment = (
            measured(seeds_accuracies(accuracy, spread, (100, seeds), rng), difficulty, correlation, answers, rng)
            for accuracy in accuracies
        )
        found += [paired_difference(*pair) for pair in zip(treatment, control, strict=True)]
        first, second = (_on_problems(accuracy, spread, difficulty, correlation) for accuracy in accuracies)
        truths.append(second - first)
    return _held(found, np.concatenate(truths))


def coverage_of_gains(accuracies: tuple[float, float], setting: Setting, repeats: int) -> tuple[float, float]:
    """The share of intervals that hold the gain of seeds over one model on drawn problems, and their width."""
    spread, seeds, problems, correlation, answers = setting
    rng = np.random.default_rng(0)
    found: list[Interval] = []
    for _ in range(-(-repeats // 100)):
        difficulty = rng.standard_normal((100, problems))
        start = answered(np.full((100, 1), accuracies[0]), difficulty, correlation, answers, rng)
        true = seeds_accuracies(accuracies[1], spread, (100, seeds), rng)
        found += [crossed_difference(rows) for rows in answered(true, difficulty, correlation, answers, rng) - start]
    return _held(found, np.full(len(found), accuracies[1] - accuracies[0]))


def _on_problems(accuracy: float, spread: float, difficulty: Array, correlation: float) -> Array:
    """Expected accuracy (repeats,) over seeds and answers, on these problems."""
    true = np.array([accuracy])
    if spread:
        size, parts = accuracy * (1 - accuracy) / spread**2 - 1, (np.arange(32) + 0.5) / 32
        true = stats.beta.ppf(parts, accuracy * size, (1 - accuracy) * size)
    expected = [
        stats.norm.cdf((threshold - np.sqrt(correlation) * difficulty) / np.sqrt(1 - correlation)).mean(axis=1)
        for threshold in stats.norm.ppf(true)
    ]
    return np.asarray(np.mean(expected, axis=0), dtype=np.float64)


def _held(found: list[Interval], truths: Array) -> tuple[float, float]:
    # Values that are all equal have no interval, and so none that holds the truth.
    held = [one.low <= truth <= one.high for one, truth in zip(found, truths, strict=True)]
    return float(np.mean(held)), float(np.nanmedian([one.high - one.low for one in found]))


def main() -> None:
    """Print the lowest, the mean and the highest coverage at each number of seeds and problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    repeats = parser.parse_args().repeats

    def student(accuracies: Array, problems: int) -> Interval:
        return t_interval(accuracies)

    print("accuracy: coverage of the 95 % interval, lowest / mean / highest over the grid (median width)")
    for seeds, problems in product(SEEDS, PROBLEMS):
        grid = product(ACCURACIES, SPREADS, CORRELATIONS, ANSWERS)
        found = [
            coverage((accuracy_interval, student), a, Setting(s, seeds, problems, c, k), repeats) for a, s, c, k in grid
        ]
        ours, students = (_line(list(of_method)) for of_method in zip(*found, strict=True))
        print(f"{seeds} seeds, {problems:4} problems: {ours}; Student's t over seeds: {students}", flush=True)
    print("difference on fixed problems, Student's t over seeds on the artanh scale")
    for seeds, problems in product(SEEDS, PROBLEMS):
        pairs = ((0.11, 0.11), (0.5, 0.45), (0.9, 0.7))
        grid = product(pairs, SPREADS, (0.5,), ANSWERS)
        found = [coverage_of_differences(a, Setting(s, seeds, problems, c, k), repeats) for a, s, c, k in grid]
        print(f"{seeds} seeds, {problems:4} problems: {_line(found)}", flush=True)
    print("gain over one model, over seeds and problems")
    for seeds, problems in product(SEEDS, PROBLEMS):
        gains = product(((0.05, 0.05), (0.25, 0.33), (0.5, 0.9)), SPREADS, CORRELATIONS, ANSWERS)
        found = [coverage_of_gains(a, Setting(s, seeds, problems, c, k), repeats) for a, s, c, k in gains]
        print(f"{seeds} seeds, {problems:4} problems: {_line(found)}", flush=True)


def _line(found: list[tuple[float, float]]) -> str:
    held = np.array([share for share, _ in found])
    width = np.median([width for _, width in found])
    return f"{100 * held.min():.1f} / {100 * held.mean():.1f} / {100 * held.max():.1f} % ({100 * width:.0f} points)"


if __name__ == "__main__":
    main()
