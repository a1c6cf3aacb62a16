"""What the parity claim (C5) can decide: the power of its test, by number of seeds and the spread between seeds.

    python tools/power.py [--margin 0.05] [--power 0.8]

A cell passes if Student's t interval over n paired differences is within ±margin, and fails if it is beyond. With
differences that are normal around d with standard deviation s between seeds, both probabilities are integrals over the
chi distribution of the estimated deviation. The answers to m problems with k samples each add to s: that of the mean of
m * k answers, of two runs, if the two shared nothing, which is the most that it can be.

Prints, for each s and n, the largest |d| that still passes and the smallest |d| that already fails with this power. A
true difference between the two stays undecided: no choice of seeds decides a difference of exactly the margin.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import pandas as pd
from scipy import integrate, optimize, stats

from nested_reft.report.statistics.intervals import LEVEL

SEEDS = (3, 4, 5, 6, 8)
SPREADS = (0.005, 0.010, 0.015, 0.020, 0.030)


def chance(low: float, high: float, difference: float, spread: float, seeds: int) -> float:
    """The probability that the whole interval is between `low` and `high`, if the true difference is `difference`."""
    error = spread / math.sqrt(seeds)
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, seeds - 1))

    def given(ratio: float) -> float:
        """For an estimated deviation of `ratio` times the true one."""
        half = quantile * ratio * error
        if low + half >= high - half:
            return 0.0
        inside = stats.norm.cdf((high - half - difference) / error) - stats.norm.cdf((low + half - difference) / error)
        return float(inside * stats.chi.pdf(ratio * math.sqrt(seeds - 1), seeds - 1) * math.sqrt(seeds - 1))

    widest = min((high - low) / (2 * quantile * error), 10.0)
    return float(integrate.quad(given, 0, widest, limit=200)[0])


def passes_up_to(margin: float, power: float, spread: float, seeds: int) -> float:
    """The largest true difference with which a cell passes with this power; NaN if not even none at all does."""
    if chance(-margin, margin, 0.0, spread, seeds) < power:
        return math.nan
    return float(optimize.brentq(lambda d: chance(-margin, margin, d, spread, seeds) - power, 0.0, margin))


def fails_from(margin: float, power: float, spread: float, seeds: int) -> float:
    """The smallest true difference with which a cell fails with this power."""
    far = margin + 40 * spread
    return float(optimize.brentq(lambda d: chance(margin, np.inf, d, spread, seeds) - power, margin, far))


def of_answers(accuracy: float, problems: int, samples: int) -> float:
    """The standard deviation of a difference of two accuracies that comes from the answers, at most."""
    return math.sqrt(2 * accuracy * (1 - accuracy) / (problems * samples))


def power_table(margin: float, power: float) -> pd.DataFrame:
    """One row per spread, one column per number of seeds: what passes, and what fails, in percentage points."""
    rows = []
    for spread in SPREADS:
        row = {"SD between seeds": f"{100 * spread:.1f}"}
        for seeds in SEEDS:
            low = passes_up_to(margin, power, spread, seeds)
            passing = "none" if math.isnan(low) else f"≤ {100 * low:.1f}"
            row[f"{seeds} seeds"] = f"{passing}, ≥ {100 * fails_from(margin, power, spread, seeds):.1f}"
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    """Print the table, and what the answers add."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--margin", type=float, default=0.05)
    parser.add_argument("--power", type=float, default=0.8)
    options = parser.parse_args()
    print(power_table(options.margin, options.power).to_markdown(index=False))
    for problems, samples in ((120, 4), (300, 4), (600, 4), (1000, 4)):
        print(
            f"{problems} problems x {samples} samples add at most {100 * of_answers(0.5, problems, samples):.1f} points"
        )


if __name__ == "__main__":
    main()
