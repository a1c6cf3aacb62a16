"""The table of what reinforcement gains on each benchmark."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nested_reft.config.experiment import Config, stages, tuned_cells
from nested_reft.config.run import STAGES
from nested_reft.report.formatting import points
from nested_reft.report.pages.page import Page
from nested_reft.report.statistics.intervals import DIFFERENCE, LEVEL, Interval
from nested_reft.report.tables.accuracy import model_name

_CELL = ["size", "dataset", "correction", "skip", "benchmark"]


def gain_table(gains: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Gain in headline accuracy (points), one row per data set, size and model, one column per benchmark."""
    chosen = gains[gains["metric"] == config.evaluation.headline]
    found = {tuple(row[key] for key in _CELL): row for row in chosen.to_dict("records")}
    rows = []
    for dataset in config.datasets:
        for size in config.sizes:
            for correction, skip in tuned_cells(config):
                cells = [found.get((size, dataset, correction, skip, name)) for name in config.benchmarks]
                rows.append(
                    {
                        "dataset": dataset,
                        "size": size,
                        "model": model_name(correction, skip),
                        "seeds": str(max(row["seeds"] if row else 0 for row in cells)),
                        **{name: points(_interval(row)) for name, row in zip(config.benchmarks, cells, strict=True)},
                    }
                )
    return pd.DataFrame(rows)


def gain_page(table: pd.DataFrame, config: Config) -> Page:
    """The table of gains with its notes."""
    start = STAGES[stages(config)[-1]]
    notes = (
        f"{config.evaluation.headline.capitalize()} accuracy after reinforcement minus that of the {start} model that "
        "it started from, in percentage points, paired by problem. Brackets: 95 % Student-t interval over seeds and "
        "problems (the squares of the half-widths of the two are added; artanh scale). One seed gives no interval, "
        "nor do seeds and problems that all agree. "
        "The assay check C6 is about the mean over benchmarks, and its interval over seeds only."
    )
    return Page(f"Gain over the {start} model, by benchmark", (("", table),), notes)


def _interval(row: dict[Any, Any] | None) -> Interval | None:
    if row is None:
        return None
    return Interval(row["gain"], row["low"], row["high"], row["seeds"], LEVEL, DIFFERENCE.method)
