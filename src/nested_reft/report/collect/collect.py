"""Collects the result files of an experiment into tidy tables, one fact per row, in a fixed order.

The expected files follow from the config's run table; those that exist are read. A missing run is not in the tables;
nothing is filled in. The columns are always there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
Models = list[tuple[str, Row]]  # the folder and the key of each
Evaluations = dict[tuple[str, str], EvaluationRecord]  # by the model's folder and the benchmark
Steps = dict[str, list[StepRecord]]  # by the run's folder


def collect(root: Path, config: Config) -> None:
    """Write the tidy tables (`registry.TIDY_TABLES`) to `tables/` under `root`, the experiment's results folder.

    `runs` and `training` cover the grid, `strategies` the runs that differ in how layers are chosen. Raises RecordError
    for a file that is damaged, or that belongs to another run than its path says.
    """
    evaluations, steps = _read_evaluations(root, config), _read_steps(root, config)
    grid, compared, sizes = _ordered(run_table(config), config), strategy_table(config), list(config.sizes)
    models = sorted(_models(config, grid), key=lambda model: sizes.index(str(model[1]["size"])))
    chosen = _ordered([*compared, *(run for run in grid if compared and not run.skip)], config)
    nested = [run for run in all_runs(config) if run.skip]
    tables = {
        "runs": pd.DataFrame(_accuracies(evaluations, config, models), columns=RUNS),
        "gains": pd.DataFrame(_gains(evaluations, config), columns=GAINS),
        "training": pd.DataFrame(_training(steps, grid), columns=TRAINING),
        "strategies": pd.DataFrame(_strategies(evaluations, steps, config, chosen), columns=STRATEGIES),
        "samples": pd.DataFrame(_samples(evaluations, config), columns=SAMPLES),
        # Of every step of a nested run: the layers that its rollout left out, however they were chosen.
        "layers": pd.DataFrame(_training(steps, nested), columns=LAYERS),
        "manifests": pd.DataFrame(_manifests(root, config), columns=MANIFESTS),
        **measurement_tables(root, config),
    }
    for name, table in tables.items():
        # The models before reinforcement have no seed.
        write_table(root, name, table.astype({"seed": "Int64"}) if "seed" in table else table)


def _models(config: Config, runs: Iterable[Run]) -> Models:
    """The models before reinforcement, which have no data set and no seed, and `runs`."""
    none = {"dataset": None, "skip": 0, "strategy": "uniform", "seed": None}
    starts = product(config.sizes, stages(config) if "training" in config.parts else ())
    return [
        *((f"{size}/{stage}", {**none, "size": size, "correction": stage}) for size, stage in starts),
        *((run.path, run.model_dump()) for run in runs),
    ]


def _ordered(runs: Iterable[Run], config: Config) -> list[Run]:
    """In the config's order of sizes, data sets, corrections and strategies, the baseline first; then by skip, seed."""
    sizes, datasets, corrections = [*config.sizes], [*config.datasets], [*config.corrections]

    def order(run: Run) -> tuple[int, ...]:
        correction = corrections.index(run.correction) if run.skip else -1
        strategy = config.layer_choice.strategies.index(run.strategy) if run.skip else -1
        return sizes.index(run.size), datasets.index(run.dataset), correction, strategy, run.skip, run.seed

    return sorted(runs, key=order)


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


def _accuracies(evaluations: Evaluations, config: Config, models: Models) -> Iterator[Row]:
    """The mean over problems of the share of right answers (0..1), one row per model, benchmark and metric."""
    for folder, key in models:
        for benchmark in config.benchmarks:
            if record := evaluations.get((folder, benchmark)):
                for metric in (*METRICS, *record.items[0].at):
                    right = _right(record, metric)
                    yield {**key, "benchmark": benchmark, "metric": metric, "value": right.mean(), "n": len(right)}


def _right(record: EvaluationRecord, metric: str) -> Array:
    """The share of right answers to each problem (problems,), of one answer if greedy."""
    return np.array([np.mean(getattr(item, metric) if metric in METRICS else item.at[metric]) for item in record.items])


def _strategies(evaluations: Evaluations, steps: Steps, config: Config, runs: Iterable[Run]) -> Iterator[Row]:
    """All that is known about the compared runs: accuracies, and means over a run's steps (n)."""
    for run in runs:
        key = run.model_dump()
        yield from _accuracies(evaluations, config, [(run.path, key)])
        training = pd.DataFrame(_training(steps, [run]), columns=TRAINING)
        training["num_skipped"] = [len(layers.split()) for layers in training["skipped_layers"]]
        for metric, over in TRAINING_METRICS.items():
            values = training[metric].dropna().astype(float)
            if len(values):
                yield {**key, "benchmark": "", "metric": metric, "value": float(values.agg(over)), "n": len(values)}


def _gains(evaluations: Evaluations, config: Config) -> Iterator[Row]:
    """Accuracy after reinforcement minus that of the model it started from, one row per cell, benchmark and metric.

    n: problems. A cell none of whose seeds has been evaluated has no row.
    """
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
                yield dict(zip(GAINS, (*cell, benchmark, metric, *values), strict=True))


def _training(steps: Steps, runs: Iterable[Run]) -> list[Row]:
    """One row per step of the runs."""
    return [
        {
            "run": run.path,
            **run.model_dump(),
            **record.model_dump(),
            "skipped_layers": layer_names(record.skipped_layers),
        }
        for run in runs
        for record in steps.get(run.path, [])
    ]


def _samples(evaluations: Evaluations, config: Config) -> list[Row]:
    """One row per completion that an evaluation kept as text."""
    return [
        {**key, "benchmark": benchmark, "problem": completion.id, **completion.model_dump()}
        for folder, key in _models(config, all_runs(config))
        for benchmark in config.benchmarks
        if (record := evaluations.get((folder, benchmark)))
        for completion in record.completions
    ]


def _manifests(root: Path, config: Config) -> Iterator[Row]:
    """One row per training run: code, versions, machine, seconds, and how many alarms it raised."""
    for run in all_runs(config):
        path = root / "runs" / run.path / "manifest.json"
        if path.exists():
            record = read_record(path, ManifestRecord)
            packages = " ".join(f"{name}=={version}" for name, version in record.versions.items())
            gpus, alarms = " ".join(record.gpus), len(record.alarms)
            yield {**record.model_dump(), "run": run.path, "packages": packages, "gpus": gpus, "alarms": alarms}
