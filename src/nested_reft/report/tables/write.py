"""The tables for people, as CSV, Markdown and LaTeX; here those of accuracy, speed and parity with the baseline.

A cell that was not run says so. The notes under each table say what varies and what the interval is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from nested_reft.config.experiment import Config, nested_skips
from nested_reft.config.run import BASELINE_CORRECTION, PRETRAINED
from nested_reft.report.formatting import NOT_RUN, ratio
from nested_reft.report.pages.page import Page, write_page
from nested_reft.report.statistics.comparisons import parity, rollout_speedups, step_speedups
from nested_reft.report.statistics.intervals import equivalence, interquartile_mean, stratified_bootstrap, t_interval
from nested_reft.report.tables.gradients import (
    exact_bias_page,
    exact_bias_table,
    gradient_bias_page,
    gradient_bias_table,
)
from nested_reft.report.tables.layer_choice import layer_choice_page, layer_choice_table
from nested_reft.report.tidy import read_table

METRICS = ("sampled", "greedy")


def write_tables(root: Path, config: Config) -> None:
    """Write the presentation tables (`registry.PRESENTATION_TABLES`) from those of `collect`."""
    runs, training, throughput = (read_table(root, name) for name in ("runs", "training", "throughput"))
    gradients, strategies, exact = (read_table(root, name) for name in ("gradients", "strategies", "exact"))
    for metric in METRICS:
        table = accuracy_table(runs, config, metric)
        write_page(root, f"accuracy_{metric}", table, accuracy_page(table, config, metric))
    table = speedup_table(throughput, training, config)
    write_page(root, "speedup", table, speedup_page(table))
    table = equivalence_table(runs, config)
    write_page(root, "equivalence", table, equivalence_page(table, config))
    table = gradient_bias_table(gradients, config)
    write_page(root, "gradient_bias", table, gradient_bias_page(table, config))
    table = layer_choice_table(strategies, config)
    write_page(root, "layer_choice", table, layer_choice_page(table, config))
    table = exact_bias_table(exact)
    write_page(root, "exact_bias", table, exact_bias_page(table))


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


def speedup_table(throughput: pd.DataFrame, training: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Rollout and whole-step speed-up over the full model, one row per size and skip."""
    rollouts, steps = rollout_speedups(throughput, config), step_speedups(training, config)
    rows = []
    for (size, skip), rollout in rollouts.items():
        measured = throughput[(throughput["size"] == size) & (throughput["skip"] == skip)]
        row = {"size": size, "skip %": str(skip)}
        row["rollout tokens/s"] = f"{measured['tokens_per_s'].iloc[0]:,.0f}" if rollout else NOT_RUN
        row["rollout speed-up"] = ratio(rollout)
        row["ideal"] = f"{measured['ideal_speedup'].iloc[0]:.2f}" if rollout else NOT_RUN
        row["pairs"] = str(rollout.n) if rollout else ""
        for dataset in config.datasets:
            row[f"step speed-up, {dataset}"] = ratio(steps[size, dataset, skip]) if skip else "1"
        rows.append(row)
    return pd.DataFrame(rows)


def equivalence_table(runs: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Nested minus baseline accuracy (points, mean over benchmarks, headline metric) against the parity margin."""
    margin = config.evaluation.parity_margin
    rows = []
    for (size, dataset, correction, skip), found in parity(runs, config, config.evaluation.headline).items():
        row = {"dataset": dataset, "size": size, "correction": correction, "skip %": str(skip)}
        if found is None:
            row |= {"difference": NOT_RUN, "low": "", "high": "", "margin": "", "seeds": "0", "verdict": NOT_RUN}
        else:
            row |= {
                "difference": f"{100 * found.estimate:+.1f}",
                "low": f"{100 * found.low:+.1f}" if found.exists else "",
                "high": f"{100 * found.high:+.1f}" if found.exists else "",
                "margin": f"{100 * margin:g}",
                "seeds": str(found.n),
                "verdict": equivalence(found.low, found.high, margin),
            }
        rows.append(row)
    return pd.DataFrame(rows).sort_values("dataset", key=lambda d: d.map(list(config.datasets).index), kind="stable")


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


def speedup_page(table: pd.DataFrame) -> Page:
    """The speed table with its notes."""
    notes = (
        "Skip 0 pairs the full model with itself and shows the noise. "
        "Rollout: timed alone on the machine, full and nested model in turn; median over pairs with its 95 % bootstrap "
        "interval. Ideal: the cost of all layers over that of the layers kept, embedding and LM head counted. "
        "Step: end-to-end tokens/s of training over the baseline's, geometric mean over seeds with its 95 % t "
        "interval; training jobs share the machine, so this one is noisy."
    )
    return Page("Speed", (("", table),), notes)


def equivalence_page(table: pd.DataFrame, config: Config) -> Page:
    """The parity table with its notes."""
    notes = (
        f"Difference in {config.evaluation.headline} accuracy (percentage points, mean over benchmarks), nested minus "
        "baseline of the same seed on identical problems; `low` and `high` bound the 95 % Student-t interval over "
        "seeds. Equivalent: the interval lies within ± margin. Worse, better: it lies wholly beyond. Inconclusive: "
        "neither, which more seeds could settle."
    )
    return Page("Parity with baseline ReFT", (("", table),), notes)


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
