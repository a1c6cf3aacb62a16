"""The tables of accuracies, of what reinforcement gains, and of parity with the baseline."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import trim_mean

from nested_reft.config.evaluation import sampled_at
from nested_reft.config.experiment import Config, stages, tuned_cells
from nested_reft.config.run import STAGES
from nested_reft.report.claims.judge import parity_cells
from nested_reft.report.formatting import NO_NESTED_RUNS, NOT_RUN, percent, points
from nested_reft.report.pages.page import Page
from nested_reft.report.statistics.comparisons import accuracy_of, benchmark_means
from nested_reft.report.statistics.intervals import DIFFERENCE, CellVerdict, Interval, against_zero

PARITY = [
    *("benchmark", "dataset", "size", "correction", "skip %", "difference", "low", "high", "margin", "seeds"),
    *("verdict", "against 0"),
]


def accuracy_table(metric: str, runs: pd.DataFrame, config: Config) -> tuple[pd.DataFrame, Page]:
    """Accuracy in percent, one row per data set, size and model, one column per benchmark, then mean and IQM."""
    models = [*((stage, 0) for stage in stages(config)), *tuned_cells(config)]
    of_metric = runs[runs["metric"] == metric]
    groups = dict(iter(of_metric.groupby(["dataset", "size", "correction", "skip"], sort=False)))
    temperatures = config.evaluation.start_temperatures if metric == "sampled" else ()
    rows = []
    for dataset, size, (correction, skip) in product(config.datasets, config.sizes, models):
        # A model before reinforcement belongs to no data set and is shown with each.
        cell = groups.get(("" if correction in STAGES else dataset, size, correction, skip), of_metric[:0])
        key = {"dataset": dataset, "size": size, "model": model_name(correction, skip)}
        rows.append({**key, **_accuracy_cells(cell, config, metric)})
        for temperature in temperatures if correction == stages(config)[-1] else ():
            name = sampled_at(temperature)
            cell = runs[(runs["metric"] == name) & (runs["size"] == size) & (runs["correction"] == correction)]
            key["model"] = f"{model_name(correction, skip)}, {name}"
            rows.append({**key, **_accuracy_cells(cell, config, name)})
    table = pd.DataFrame(rows)
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
    if temperatures:
        notes += (
            f" The {STAGES[stages(config)[-1]]} model is sampled at lower temperatures T too: what it reaches so needs "
            "no learning."
        )
    return table, Page(f"Accuracy, {metric} ({role} metric)", tables, notes, marked=tuple(config.benchmarks))


accuracy_sampled, accuracy_greedy = partial(accuracy_table, "sampled"), partial(accuracy_table, "greedy")


def _accuracy_cells(cell: pd.DataFrame, config: Config, metric: str) -> dict[str, str]:
    """The texts of one model's row, from its tidy rows: one value per benchmark and seed."""
    benchmarks = list(config.benchmarks)
    texts = {name: percent(accuracy_of(cell[cell["benchmark"] == name])) for name in benchmarks}
    mean = benchmark_means(cell, config, metric)
    texts["mean"] = percent(accuracy_of(mean))
    complete = cell[cell["seed"].fillna(0).isin(mean["seed"].fillna(0))]["value"].to_numpy(dtype=np.float64)
    texts["IQM"] = f"{100 * trim_mean(complete, 0.25):.1f}" if len(complete) else NOT_RUN
    return texts


def model_name(correction: str, skip: int) -> str:
    """How the tables call the models of a correction and skip, or of a stage before reinforcement."""
    if correction in STAGES:
        return STAGES[correction]
    return f"{correction}, skip {skip} %" if skip else "baseline ReFT"


def gain_by_benchmark_table(gains: pd.DataFrame, config: Config) -> tuple[pd.DataFrame, Page]:
    """Gain in headline accuracy (points), one row per data set, size and model, one column per benchmark."""
    chosen = gains[gains["metric"] == config.evaluation.headline]
    keys = chosen[["size", "dataset", "correction", "skip", "benchmark"]].itertuples(index=False, name=None)
    found = dict(zip(keys, chosen.to_dict("records"), strict=True))
    rows = []
    for dataset, size, (correction, skip) in product(config.datasets, config.sizes, tuned_cells(config)):
        cells = [found.get((size, dataset, correction, skip, name)) for name in config.benchmarks]
        seeds = str(max(row["seeds"] if row else 0 for row in cells))
        key = {"dataset": dataset, "size": size, "model": model_name(correction, skip), "seeds": seeds}
        rows.append({**key, **{name: _gain(row) for name, row in zip(config.benchmarks, cells, strict=True)}})
    table = pd.DataFrame(rows)
    start = STAGES[stages(config)[-1]]
    notes = (
        f"{config.evaluation.headline.capitalize()} accuracy after reinforcement minus that of the {start} model that "
        "it started from, in percentage points, paired by problem. Brackets: 95 % Student-t interval over seeds and "
        "problems (the squares of the half-widths of the two are added; artanh scale). One seed gives no interval, "
        "nor do seeds and problems that all agree. "
        f"The assay check C6 has intervals over seeds only: it is about these problems and the {start} model's answers "
        "to them."
    )
    return table, Page(f"Gain over the {start} model, by benchmark", (("", table),), notes)


def _gain(row: dict[Any, Any] | None) -> str:
    found = row and Interval(row["gain"], row["low"], row["high"], row["seeds"], DIFFERENCE.method)
    return points(found or None)


def equivalence_table(runs: pd.DataFrame, config: Config) -> tuple[pd.DataFrame, Page]:
    """Nested minus baseline accuracy (points, headline metric) against the parity margin, a table per benchmark."""
    margin = config.evaluation.parity_margin
    words: dict[CellVerdict | None, str] = {"passes": "equivalent", "fails": "beyond the margin"}
    rows = []
    for (size, dataset, benchmark, correction, skip), cell in parity_cells(runs, config).items():
        row = {"benchmark": benchmark, "dataset": dataset, "size": size, "correction": correction}
        row |= {"skip %": str(skip), "seeds": "0", **dict.fromkeys(("difference", "verdict", "against 0"), NOT_RUN)}
        if found := cell.found:
            row |= {"margin": f"{100 * margin:g}", "seeds": str(found.n), "difference": f"{100 * found.estimate:+.1f}"}
            row |= {"low": f"{100 * found.low:+.1f}", "high": f"{100 * found.high:+.1f}"} if found.exists else {}
            row["verdict"] = words.get(cell.verdict, "inconclusive") if found.exists else "no interval"
            if cell.verdict == "not assessable":
                row["verdict"] = cell.verdict
            row["against 0"] = against_zero(found)
        rows.append(row)
    table = pd.DataFrame(rows, columns=PARITY).astype(object).fillna("")
    table = table.sort_values("dataset", key=lambda d: d.map(list(config.datasets).index), kind="stable")
    tables = tuple(
        (f"On {name}", table[table["benchmark"] == name].drop(columns="benchmark")) for name in config.benchmarks
    )
    title = "Parity with baseline ReFT"
    if table.empty:
        return table, Page(title, (), NO_NESTED_RUNS)
    notes = (
        f"Difference in {config.evaluation.headline} accuracy (percentage points), nested minus "
        "baseline of the same seed on identical problems; `low` and `high` bound the 95 % Student-t interval over "
        "seeds (artanh scale, which never leaves ± 100 points); the problems do not vary. Equivalent: the interval "
        "lies within ± margin, which is two one-sided tests at 2.5 % each. Beyond the margin: it lies wholly beyond, "
        "on one side, also after Holm's correction for the number of cells that the correction has. Not assessable: on "
        "this benchmark the baseline is not shown to learn enough, and a run that learned nothing could be on par. "
        "Inconclusive: none of these, which more seeds could settle. No interval: one seed, or seeds that all "
        "agree, which decide nothing. Against 0: on which side of 0 the whole "
        "interval lies, if on one; a difference can be below 0 and yet within the margin, or not known to be beyond it."
    )
    return table, Page(title, tables, notes)
