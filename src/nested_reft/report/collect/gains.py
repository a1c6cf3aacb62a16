"""The tidy table of what reinforcement gains on each benchmark, from the answers to single problems."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from nested_reft.config.experiment import Config, stages, tuned_cells
from nested_reft.config.records import EvaluationRecord, read_record
from nested_reft.config.run_table import run_table
from nested_reft.report.registry import METRICS
from nested_reft.report.statistics.intervals import Array, crossed_difference

GAINS = ["size", "dataset", "correction", "skip", "benchmark", "metric", "gain", "low", "high", "seeds", "n"]


def gains_table(root: Path, config: Config) -> pd.DataFrame:
    """Accuracy after reinforcement minus that of the model it started from, one row per cell, benchmark and metric.

    n: problems. A cell none of whose seeds has been evaluated has no row.
    """
    rows: list[dict[str, object]] = []
    for size in config.sizes:
        for dataset in config.datasets:
            for correction, skip in tuned_cells(config):
                cell = {"size": size, "dataset": dataset, "correction": correction, "skip": skip}
                runs = [run.path for run in run_table(config) if cell.items() <= run.model_dump().items()]
                for benchmark in config.benchmarks:
                    start = _evaluation(root, f"{size}/{stages(config)[-1]}", benchmark)
                    after = [found for path in runs if (found := _evaluation(root, path, benchmark))]
                    if start and after:
                        rows += [{**cell, "benchmark": benchmark, **_gain(start, after, metric)} for metric in METRICS]
    return pd.DataFrame(rows, columns=GAINS)


def _gain(start: EvaluationRecord, after: list[EvaluationRecord], metric: str) -> dict[str, object]:
    differences = np.array([_correct(record, metric) for record in after]) - _correct(start, metric)
    found = crossed_difference(differences)
    return {
        "metric": metric, "gain": found.estimate, "low": found.low, "high": found.high, "seeds": found.n,
        "n": differences.shape[1],
    }  # fmt: skip


def _correct(record: EvaluationRecord, metric: str) -> Array:
    """The share of right answers to each problem (problems,), of one answer if greedy."""
    return np.array([np.mean(getattr(item, metric)) for item in record.items])


def _evaluation(root: Path, model: str, benchmark: str) -> EvaluationRecord | None:
    path = root / "evaluations" / model / f"{benchmark}.json"
    return read_record(path, EvaluationRecord) if path.exists() else None
