"""The table of accuracies: one row per model, one column per benchmark."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nested_reft.config.experiment import Config, stages, tuned_cells
from nested_reft.config.run import STAGES
from nested_reft.report.formatting import NOT_RUN, percent
from nested_reft.report.pages.page import Page
from nested_reft.report.statistics.comparisons import accuracy_of, benchmark_means
from nested_reft.report.statistics.intervals import interquartile_mean


def accuracy_table(runs: pd.DataFrame, config: Config, metric: str) -> pd.DataFrame:
    """Accuracy in percent, one row per data set, size and model, one column per benchmark, then mean and IQM."""
    models = [*((stage, 0) for stage in stages(config)), *tuned_cells(config)]
    chosen = runs[runs["metric"] == metric]
    rows = []
    for dataset in config.datasets:
        for size in config.sizes:
            for correction, skip in models:
                cell = chosen[
                    (chosen["size"] == size) & (chosen["correction"] == correction) & (chosen["skip"] == skip)
                ]
                # A model before reinforcement belongs to no data set and is shown with each.
                cell = cell[cell["dataset"] == ("" if correction in STAGES else dataset)]
                rows.append(
                    {
                        "dataset": dataset,
                        "size": size,
                        "model": model_name(correction, skip),
                        **_accuracy_cells(cell, config, metric),
                    }
                )
    return pd.DataFrame(rows)


def accuracy_page(table: pd.DataFrame, config: Config, metric: str) -> Page:
    """The accuracy table as one per fine-tuning data set, with the benchmarks' extremes marked."""
    role = "headline" if metric == config.evaluation.headline else "second"
    tables = tuple(
        (f"Fine-tuning on {dataset}", table[table["dataset"] == dataset].drop(columns="dataset"))
        for dataset in config.datasets
    )
    before = " and the ".join(STAGES[stage] for stage in stages(config))
    notes = (
        f"Accuracy in percent on held-out problems, mean over training seeds ({len(config.seeds)}). Brackets: 95 % "
        "interval over seeds and problems (Wilson's score interval; the squares of the half-widths of the two are "
        f"added); of the {before} model, which has no seed, over problems only. One seed gives no interval. Models "
        "are compared on identical problems, which the table of parity does, not by these intervals. IQM: "
        "interquartile mean over seeds and benchmarks (Agarwal et al. 2021)."
    )
    return Page(f"Accuracy, {metric} ({role} metric)", tables, notes, marked=tuple(config.benchmarks))


def _accuracy_cells(cell: pd.DataFrame, config: Config, metric: str) -> dict[str, str]:
    """The texts of one model's row, from its tidy rows: one value per benchmark and seed."""
    benchmarks = list(config.benchmarks)
    texts = {name: percent(accuracy_of(cell[cell["benchmark"] == name])) for name in benchmarks}
    mean = benchmark_means(cell, config, metric)
    texts["mean"] = percent(accuracy_of(mean))
    complete = cell[cell["seed"].fillna(0).isin(mean["seed"].fillna(0))]["value"].to_numpy(dtype=np.float64)
    texts["IQM"] = f"{100 * interquartile_mean(complete):.1f}" if len(complete) else NOT_RUN
    return texts


def model_name(correction: str, skip: int) -> str:
    """How the tables call the models of a correction and skip, or of a stage before reinforcement."""
    if correction in STAGES:
        return STAGES[correction]
    return f"{correction}, skip {skip} %" if skip else "baseline ReFT"
