"""The table of accuracies: one row per model, one column per benchmark."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nested_reft.config.experiment import Config, nested_skips
from nested_reft.config.run import BASELINE_CORRECTION, PRETRAINED
from nested_reft.report.formatting import NOT_RUN
from nested_reft.report.pages.page import Page
from nested_reft.report.statistics.intervals import interquartile_mean, stratified_bootstrap, t_interval


def accuracy_table(runs: pd.DataFrame, config: Config, metric: str) -> pd.DataFrame:
    """Accuracy in percent, one row per data set, size and model, one column per benchmark, then mean and IQM."""
    models = [(PRETRAINED, 0), (BASELINE_CORRECTION, 0)]
    models += [(correction, skip) for correction in config.corrections for skip in nested_skips(config)]
    chosen = runs[runs["metric"] == metric]
    rows = []
    for dataset in config.datasets:
        for size in config.sizes:
            for correction, skip in models:
                cell = chosen[
                    (chosen["size"] == size) & (chosen["correction"] == correction) & (chosen["skip"] == skip)
                ]
                # The pre-trained model belongs to no data set and is shown with each.
                cell = cell[cell["dataset"] == ("" if correction == PRETRAINED else dataset)]
                rows.append(
                    {
                        "dataset": dataset,
                        "size": size,
                        "model": _model_name(correction, skip),
                        **_accuracy_cells(cell, list(config.benchmarks)),
                    }
                )
    return pd.DataFrame(rows)


def accuracy_page(table: pd.DataFrame, config: Config, metric: str) -> Page:
    """The accuracy table as one per fine-tuning data set, with the benchmarks' extremes marked as in the paper."""
    role = "headline" if metric == config.evaluation.headline else "second"
    tables = tuple(
        (f"Fine-tuning on {dataset}", table[table["dataset"] == dataset].drop(columns="dataset"))
        for dataset in config.datasets
    )
    notes = (
        f"Accuracy in percent on held-out problems, mean over training seeds ({len(config.seeds)}) ± half-width of "
        "the 95 % Student-t interval over seeds. IQM: interquartile mean over seeds and benchmarks with its 95 % "
        "bootstrap interval over seeds, stratified by benchmark (Agarwal et al. 2021). One seed, or the pre-trained "
        "model, has no interval."
    )
    return Page(f"Accuracy, {metric} ({role} metric)", tables, notes, marked=tuple(config.benchmarks))


def _accuracy_cells(cell: pd.DataFrame, benchmarks: list[str]) -> dict[str, str]:
    """The texts of one model's row, from its tidy rows: one value per benchmark and seed."""
    # The pre-trained model has no seed, and a pivot would drop it.
    scores = (
        cell.fillna({"seed": 0}).pivot(index="seed", columns="benchmark", values="value").reindex(columns=benchmarks)
    )
    texts = {name: _percent(scores[name].dropna().to_numpy()) for name in benchmarks}
    complete = scores.dropna().to_numpy(dtype=np.float64)
    texts["mean"] = _percent(complete.mean(axis=1)) if len(complete) else NOT_RUN
    texts["IQM"] = _iqm(complete) if len(complete) else NOT_RUN
    return texts


def _percent(values: np.ndarray) -> str:
    if not len(values):
        return NOT_RUN
    interval = t_interval(values)
    half = f" ± {100 * (interval.high - interval.estimate):.1f}" if interval.exists else ""
    return f"{100 * interval.estimate:.1f}{half}"


def _iqm(scores: np.ndarray) -> str:
    interval = stratified_bootstrap(scores, interquartile_mean)
    bounds = f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]" if interval.exists else ""
    return f"{100 * interval.estimate:.1f}{bounds}"


def _model_name(correction: str, skip: int) -> str:
    if correction == PRETRAINED:
        return "pre-trained"
    return f"{correction}, skip {skip} %" if skip else "baseline ReFT"
