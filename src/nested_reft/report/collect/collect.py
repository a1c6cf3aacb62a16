"""Collects the result files of an experiment into tidy tables, one fact per row, in a fixed order.

`collect` derives the expected files from the config's run table and reads those that exist. A missing run is not in the
tables; nothing is filled in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from nested_reft.config.experiment import Config, nested_skips, stages
from nested_reft.config.records import (
    EvaluationRecord,
    RecordError,
    StepRecord,
    check_owner,
    read_record,
    read_records,
)
from nested_reft.config.run import Run
from nested_reft.config.run_table import run_table, strategy_table
from nested_reft.report.collect.gains import gains_table
from nested_reft.report.collect.measurements import (
    exact_table,
    gradient_table,
    layer_names,
    nestability_table,
    step_speed_tables,
    throughput_tables,
)
from nested_reft.report.collect.runs import layers_table, manifests_table, samples_table
from nested_reft.report.tidy import write_table

RUNS = ["size", "dataset", "correction", "skip", "seed", "benchmark", "metric", "value", "n"]
TRAINING = ["run", "size", "dataset", "correction", "skip", "seed", *StepRecord.model_fields]
STRATEGIES = ["size", "dataset", "strategy", "correction", "skip", "seed", "benchmark", "metric", "value", "n"]

# What `strategies.csv` has from a training run, aggregated over its steps.
TRAINING_METRICS = {
    "kl_k3": "mean", "ess": "mean", "chi2": "mean", "rollout_tokens_per_s": "median", "num_skipped": "mean",
}  # fmt: skip


def collect(root: Path, config: Config) -> None:
    """Write the tidy tables (`registry.TIDY_TABLES`) to `tables/` under `root`, the experiment's results folder.

    `runs` and `training` cover the grid, `strategies` the runs that differ in how layers are chosen. Raises RecordError
    for a file that is damaged, or that belongs to another run than its path says.
    """
    skips = nested_skips(config)
    runs, strategies = _runs(root, config)
    write_table(root, "runs", runs)
    write_table(root, "gains", gains_table(root, config))
    write_table(root, "training", _training(root, config, _in_table_order(config)))
    write_table(root, "strategies", strategies)
    summary, pairs = throughput_tables(root, config, skips)
    write_table(root, "throughput", summary)
    write_table(root, "throughput_pairs", pairs)
    summary, pairs = step_speed_tables(root, config, skips)
    write_table(root, "step_speed", summary)
    write_table(root, "step_speed_pairs", pairs)
    write_table(root, "gradients", gradient_table(root, config, skips))
    write_table(root, "nestability_batches", nestability_table(root, config, skips))
    write_table(root, "exact", exact_table(root))
    write_table(root, "samples", samples_table(root, config))
    write_table(root, "layers", layers_table(root, config))
    write_table(root, "manifests", manifests_table(root, config))


def _in_table_order(config: Config) -> list[Run]:
    """The run table by size, data set and correction as in the config, then by skip and seed as numbers."""
    sizes, datasets = list(config.sizes), list(config.datasets)
    corrections: list[str] = list(config.corrections)
    return sorted(
        run_table(config),
        key=lambda run: (
            sizes.index(run.size),
            datasets.index(run.dataset),
            corrections.index(run.correction) if run.skip else -1,
            run.skip,
            run.seed,
        ),
    )


def _comparison(config: Config) -> list[Run]:
    """The baseline and the runs that differ in how layers are chosen; none if there is only one way to choose."""
    chosen = strategy_table(config)
    baseline = [run for run in run_table(config) if not run.skip] if chosen else []
    sizes, datasets, order = list(config.sizes), list(config.datasets), config.layer_choice.strategies
    return sorted(
        (*baseline, *chosen),
        key=lambda run: (
            sizes.index(run.size),
            datasets.index(run.dataset),
            order.index(run.strategy) if run.skip else -1,
            run.skip,
            run.seed,
        ),
    )


def _runs(root: Path, config: Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The accuracies of the grid and the models before it, and all that is known about the compared strategies."""
    first: dict[str, tuple[Path, list[str]]] = {}
    grid, rows = _in_table_order(config), []
    for size in config.sizes:
        for stage in stages(config):
            nobody = {"dataset": None, "correction": stage, "skip": 0, "strategy": "uniform", "seed": None}
            rows += _evaluations(root, config, f"{size}/{stage}", {"size": size, **nobody}, first)
        for run in grid:
            if run.size == size:
                rows += _evaluations(root, config, run.path, run.model_dump(), first)
    compared: list[dict[str, object]] = []
    for run in _comparison(config):
        compared += _evaluations(root, config, run.path, run.model_dump(), first)
        compared += _over_steps(run, _training(root, config, [run]))
    runs = pd.DataFrame(rows, columns=RUNS).astype({"seed": "Int64"})
    return runs, pd.DataFrame(compared, columns=STRATEGIES).astype({"seed": "Int64"})


def _evaluations(
    root: Path, config: Config, folder: str, owner: dict[str, object], first: dict[str, tuple[Path, list[str]]]
) -> list[dict[str, object]]:
    """The accuracies of one model on all benchmarks; `first` remembers which problems each benchmark has."""
    rows: list[dict[str, object]] = []
    for benchmark in config.benchmarks:
        path = root / "evaluations" / folder / f"{benchmark}.json"
        if path.exists():
            record = read_record(path, EvaluationRecord)
            key = {**owner, "benchmark": benchmark}
            check_owner(path, record, key)
            _check_items(path, record, first)
            rows += [{**key, **accuracy} for accuracy in _accuracies(record)]
    return rows


def _over_steps(run: Run, training: pd.DataFrame) -> list[dict[str, object]]:
    """One row per metric of TRAINING_METRICS, over the steps (n) at which it is a number; none if it never is."""
    rows: list[dict[str, object]] = []
    steps = training.assign(num_skipped=[len(layers.split()) for layers in training["skipped_layers"]])
    for metric, over in TRAINING_METRICS.items():
        values = steps[metric].dropna().astype(float)
        if len(values):
            key = {**run.model_dump(), "benchmark": "", "metric": metric}
            rows.append({**key, "value": float(values.agg(over)), "n": len(values)})
    return rows


def _accuracies(record: EvaluationRecord) -> list[dict[str, object]]:
    """Greedy accuracy, and the mean over items of the share of sampled completions that are right (both 0..1)."""
    greedy = np.mean([item.greedy for item in record.items])
    sampled = np.mean([np.mean(item.sampled) for item in record.items])
    n = len(record.items)
    return [{"metric": "greedy", "value": greedy, "n": n}, {"metric": "sampled", "value": sampled, "n": n}]


def _check_items(path: Path, record: EvaluationRecord, first: dict[str, tuple[Path, list[str]]]) -> None:
    """Differences between runs are paired, so every model must have been asked the same problems."""
    ids = [item.id for item in record.items]
    first_path, first_ids = first.setdefault(record.benchmark, (path, ids))
    if ids != first_ids:
        raise RecordError.damaged(path, f"has other problems of '{record.benchmark}' than {first_path}")


def _training(root: Path, config: Config, runs: list[Run]) -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    for run in runs:
        path = root / "runs" / run.path / "metrics.jsonl"
        if not path.exists():
            continue
        records = read_records(path, StepRecord)
        if [record.step for record in records] != list(range(1, config.training.steps + 1)):
            raise RecordError.damaged(path, f"its steps are not 1 to {config.training.steps}, one per line")
        for record in records:
            rows.append({"run": run.path, **run.model_dump(), **record.model_dump()})
            rows[-1]["skipped_layers"] = layer_names(record.skipped_layers)
    return pd.DataFrame(rows, columns=TRAINING)
