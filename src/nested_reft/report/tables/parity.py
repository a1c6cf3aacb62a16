"""The table of parity with the baseline: an equivalence statement per cell."""

from __future__ import annotations

import pandas as pd

from nested_reft.config.experiment import Config
from nested_reft.report.formatting import NO_NESTED_RUNS, NOT_RUN
from nested_reft.report.pages.page import Page
from nested_reft.report.statistics.comparisons import parity
from nested_reft.report.statistics.intervals import against_zero, equivalence

COLUMNS = [
    "dataset", "size", "correction", "skip %", "difference", "low", "high", "margin", "seeds", "verdict", "against 0",
]  # fmt: skip


def equivalence_table(runs: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Nested minus baseline accuracy (points, mean over benchmarks, headline metric) against the parity margin."""
    margin = config.evaluation.parity_margin
    rows = []
    for (size, dataset, correction, skip), found in parity(runs, config, config.evaluation.headline).items():
        row = {"dataset": dataset, "size": size, "correction": correction, "skip %": str(skip)}
        if found is None:
            row |= {"difference": NOT_RUN, "low": "", "high": "", "margin": "", "seeds": "0"}
            row |= {"verdict": NOT_RUN, "against 0": NOT_RUN}
        else:
            row |= {
                "difference": f"{100 * found.estimate:+.1f}",
                "low": f"{100 * found.low:+.1f}" if found.exists else "",
                "high": f"{100 * found.high:+.1f}" if found.exists else "",
                "margin": f"{100 * margin:g}",
                "seeds": str(found.n),
                "verdict": equivalence(found.low, found.high, margin),
                "against 0": against_zero(found.low, found.high),
            }
        rows.append(row)
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values("dataset", key=lambda d: d.map(list(config.datasets).index), kind="stable")


def equivalence_page(table: pd.DataFrame, config: Config) -> Page:
    """The parity table with its notes."""
    title = "Parity with baseline ReFT"
    if table.empty:
        return Page(title, (), NO_NESTED_RUNS)
    notes = (
        f"Difference in {config.evaluation.headline} accuracy (percentage points, mean over benchmarks), nested minus "
        "baseline of the same seed on identical problems; `low` and `high` bound the 95 % Student-t interval over "
        "seeds (artanh scale, which never leaves ± 100 points); the problems do not vary. Equivalent: the interval "
        "lies within ± margin, which is two one-sided tests at 2.5 % each. Beyond the margin: it lies wholly beyond, "
        "on one side. Inconclusive: neither, which more seeds could settle. No interval: one seed, or seeds that all "
        "agree, which decide nothing. Against 0: on which side of 0 the whole "
        "interval lies, if on one; a difference can be below 0 and yet within the margin, or not known to be beyond it."
    )
    return Page(title, (("", table),), notes)
