"""Collects the result files of an experiment into tidy tables, one fact per row, in a fixed order.

The expected files follow from the config's run table; those that exist are read. A missing run is not in the tables;
nothing is filled in. The columns are always there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from nested_reft.config.experiment import Config, stages, tuned_cells
from nested_reft.config.records.evaluation import EvaluationRecord
from nested_reft.config.records.record import RecordError, check_owner, read_record, read_records
from nested_reft.config.records.training import ManifestRecord, StepRecord
from nested_reft.config.run import Run
from nested_reft.config.run_table import all_runs, run_table, strategy_table
from nested_reft.report.collect.measurements import layer_names, measurement_tables
from nested_reft.report.registry import METRICS
from nested_reft.report.statistics.intervals import Array, crossed_difference
from nested_reft.report.tidy import write_table

RUNS = ["size", "dataset", "correction", "skip", "seed", "benchmark", "metric", "value", "n"]
GAINS = ["size", "dataset", "correction", "skip", "benchmark", "metric", "gain", "low", "high", "seeds", "n"]
TRAINING = ["run", *RUNS[:5], *(name for name in StepRecord.model_fields if name != "kl_reference")]
STRATEGIES = ["size", "dataset", "strategy", "correction", "skip", "seed", "benchmark", "metric", "value", "n"]
MODEL = ["size", "dataset", "strategy", "correction", "skip", "seed"]
SAMPLES = [*MODEL, "benchmark", "problem", "prompt", "gold", "kind", "response", "right"]
LAYERS = [*MODEL, "step", "skipped_layers"]
MANIFESTS = [
    *("run", "commit", "dirty", "settings_hash", "python", "packages", "platform", "processor", "cores", "threads"),
    *("gpus", "wall_seconds", "alarms"),
]
# What `strategies.csv` has from a training run, aggregated over its steps.
TRAINING_METRICS = {
    "kl_k3": "mean",
    "ess": "mean",
    "chi2": "mean",
    "rollout_tokens_per_s": "median",
    "num_skipped": "mean",
}

Row = dict[str, object]
Evaluations = dict[tuple[str, str], EvaluationRecord]  # by the model's folder and the benchmark
Steps = dict[str, list[StepRecord]]  # by the run's folder


def collect(root: Path, config: Config) -> None:
    """Write the tidy tables (`registry.TIDY_TABLES`) to `tables/` under `root`, the experiment's results folder.

    `runs` and `training` cover the grid, `strategies` the runs that differ in how layers are chosen. Raises RecordError
    for a file that is damaged, or that belongs to another run than its path says.
    """
    evaluations, steps = _read_evaluations(root, config), _read_steps(root, config)
    tables = {
        "runs": _runs(evaluations, config),
        "gains": _gains(evaluations, config),
        "training": pd.DataFrame(_training(steps, _in_table_order(config)), columns=TRAINING),
        "strategies": _strategies(evaluations, steps, config),
        "samples": _samples(evaluations, config),
        "layers": _layers(steps, config),
        "manifests": _manifests(root, config),
        **measurement_tables(root, config),
    }
    for name, table in tables.items():
        write_table(root, name, table)


def _models(config: Config, runs: Iterable[Run]) -> Iterator[tuple[str, Row]]:
    """Folder and key of the models before reinforcement, which have no data set and no seed, and of `runs`."""
    for size in config.sizes:
        for stage in stages(config):
            key: Row = {"size": size, "dataset": None, "correction": stage, "skip": 0, "strategy": "uniform"}
            yield f"{size}/{stage}", {**key, "seed": None}
    yield from ((run.path, run.model_dump()) for run in runs)


def _read_evaluations(root: Path, config: Config) -> Evaluations:
    found: Evaluations = {}
    first: dict[str, tuple[Path, list[str]]] = {}
    for folder, key in _models(config, all_runs(config)):
        for benchmark in config.benchmarks:
            path = root / "evaluations" / folder / f"{benchmark}.json"
            if not path.exists():
                continue
            record = found[folder, benchmark] = read_record(path, EvaluationRecord)
            check_owner(path, record, {**key, "benchmark": benchmark})
            # Differences between runs are paired, so every model must have been asked the same problems.
            ids = [item.id for item in record.items]
            first_path, first_ids = first.setdefault(benchmark, (path, ids))
            if ids != first_ids:
                raise RecordError.damaged(path, f"has other problems of '{benchmark}' than {first_path}")
    return found


def _read_steps(root: Path, config: Config) -> Steps:
    found: Steps = {}
    for run in all_runs(config):
        path = root / "runs" / run.path / "metrics.jsonl"
        if path.exists():
            records = found[run.path] = read_records(path, StepRecord)
            if [record.step for record in records] != list(range(1, config.training.steps + 1)):
                raise RecordError.damaged(path, f"its steps are not 1 to {config.training.steps}, one per line")
    return found


def _in_table_order(config: Config) -> list[Run]:
    """The run table by size, data set and correction as in the config, then by skip and seed as numbers."""
    return _sorted(run_table(config), config, lambda run: list(config.corrections).index(run.correction))


def _comparison(config: Config) -> list[Run]:
    """The baseline and the runs that differ in how layers are chosen; none if there is only one way to choose."""
    chosen = strategy_table(config)
    baseline = [run for run in run_table(config) if not run.skip] if chosen else []
    return _sorted((*baseline, *chosen), config, lambda run: config.layer_choice.strategies.index(run.strategy))


def _sorted(runs: Iterable[Run], config: Config, place: Callable[[Run], int]) -> list[Run]:
    """By size and data set as in the config, then the baseline and the others by `place`, skip and seed."""
    sizes, datasets = list(config.sizes), list(config.datasets)

    def order(run: Run) -> tuple[int, ...]:
        of_cell = place(run) if run.skip else -1
        return sizes.index(run.size), datasets.index(run.dataset), of_cell, run.skip, run.seed

    return sorted(runs, key=order)


def _runs(evaluations: Evaluations, config: Config) -> pd.DataFrame:
    """The accuracies of the models before reinforcement and of the grid, size by size."""
    models = sorted(
        _models(config, _in_table_order(config)), key=lambda model: list(config.sizes).index(str(model[1]["size"]))
    )
    rows = [row for folder, key in models for row in _accuracies(evaluations, config, folder, key)]
    return _with_seeds(rows, RUNS)


def _strategies(evaluations: Evaluations, steps: Steps, config: Config) -> pd.DataFrame:
    """All that is known about the compared strategies: accuracies, and means over a run's steps (n)."""
    rows: list[Row] = []
    for run in _comparison(config):
        rows += _accuracies(evaluations, config, run.path, run.model_dump())
        training = pd.DataFrame(_training(steps, [run]), columns=TRAINING)
        training["num_skipped"] = [len(layers.split()) for layers in training["skipped_layers"]]
        for metric, over in TRAINING_METRICS.items():
            values = training[metric].dropna().astype(float)
            if len(values):
                row = {"benchmark": "", "metric": metric, "value": float(values.agg(over)), "n": len(values)}
                rows.append({**run.model_dump(), **row})
    return _with_seeds(rows, STRATEGIES)


def _accuracies(evaluations: Evaluations, config: Config, folder: str, key: Row) -> Iterator[Row]:
    """A model's mean over problems of the share of right answers (0..1), one row per benchmark and metric."""
    for benchmark in config.benchmarks:
        if record := evaluations.get((folder, benchmark)):
            for metric in METRICS:
                right = _right(record, metric)
                yield {**key, "benchmark": benchmark, "metric": metric, "value": right.mean(), "n": len(right)}


def _right(record: EvaluationRecord, metric: str) -> Array:
    """The share of right answers to each problem (problems,), of one answer if greedy."""
    return np.array([np.mean(getattr(item, metric)) for item in record.items])


def _gains(evaluations: Evaluations, config: Config) -> pd.DataFrame:
    """Accuracy after reinforcement minus that of the model it started from, one row per cell, benchmark and metric.

    n: problems. A cell none of whose seeds has been evaluated has no row.
    """
    rows: list[Row] = []
    groups: dict[tuple[str, str, str, int], list[str]] = {}
    for run in run_table(config):
        groups.setdefault((run.size, run.dataset, run.correction, run.skip), []).append(run.path)
    for size, dataset, (correction, skip) in product(config.sizes, config.datasets, tuned_cells(config)):
        cell = (size, dataset, correction, skip)
        for benchmark in config.benchmarks:
            start = evaluations.get((f"{size}/{stages(config)[-1]}", benchmark))
            after = [record for path in groups[cell] if (record := evaluations.get((path, benchmark)))]
            if not start or not after:
                continue
            for metric in METRICS:
                differences = np.array([_right(record, metric) for record in after]) - _right(start, metric)
                found = crossed_difference(differences)
                values = (found.estimate, found.low, found.high, found.n, differences.shape[1])
                rows.append(dict(zip(GAINS, (*cell, benchmark, metric, *values), strict=True)))
    return pd.DataFrame(rows, columns=GAINS)


def _training(steps: Steps, runs: Iterable[Run]) -> list[Row]:
    """One row per step of the runs."""
    return [
        {"run": run.path, **run.model_dump(), **record.model_dump(), "skipped_layers": layer_names(record)}
        for run in runs
        for record in steps.get(run.path, [])
    ]


def _samples(evaluations: Evaluations, config: Config) -> pd.DataFrame:
    """One row per completion that an evaluation kept as text."""
    rows: list[Row] = []
    for folder, key in _models(config, all_runs(config)):
        for benchmark in config.benchmarks:
            if record := evaluations.get((folder, benchmark)):
                for completion in record.completions:
                    rows.append({**key, "benchmark": benchmark, "problem": completion.id, **completion.model_dump()})
    return _with_seeds(rows, SAMPLES)


def _layers(steps: Steps, config: Config) -> pd.DataFrame:
    """One row per step of a nested run: the layers that its rollout left out, however they were chosen."""
    return pd.DataFrame(_training(steps, [run for run in all_runs(config) if run.skip]), columns=LAYERS)


def _manifests(root: Path, config: Config) -> pd.DataFrame:
    """One row per training run: code, versions, machine, seconds, and how many alarms it raised."""
    rows = []
    for run in all_runs(config):
        path = root / "runs" / run.path / "manifest.json"
        if path.exists():
            record = read_record(path, ManifestRecord)
            packages = " ".join(f"{name}=={version}" for name, version in record.versions.items())
            gpus, alarms = " ".join(record.gpus), len(record.alarms)
            rows.append({**record.model_dump(), "run": run.path, "packages": packages, "gpus": gpus, "alarms": alarms})
    return pd.DataFrame(rows, columns=MANIFESTS)


def _with_seeds(rows: list[Row], columns: list[str]) -> pd.DataFrame:
    """A table some of whose models have no seed."""
    return pd.DataFrame(rows, columns=columns).astype({"seed": "Int64"})
