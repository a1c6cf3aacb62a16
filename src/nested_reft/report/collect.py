"""Collects the result files of an experiment into tidy tables, one fact a row, in a fixed order.

`collect` derives the expected files from the config's run table and reads those that exist. A run that is not there
is not in the tables; nothing stands in for it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from nested_reft.config import PRETRAINED, Config, Run, run_table
from nested_reft.report.records import (
    EvaluationRecord,
    ReportError,
    StepRecord,
    ThroughputRecord,
    read_record,
    read_records,
)
from nested_reft.report.statistics import median_ratio

RUNS = ["size", "dataset", "correction", "skip", "seed", "benchmark", "metric", "value", "n"]
TRAINING = ["run", "size", "dataset", "correction", "skip", "seed", *StepRecord.model_fields]
THROUGHPUT = ["size", "skip", "tokens_per_s", "speedup", "speedup_low", "speedup_high", "ideal_speedup", "n"]
THROUGHPUT_PAIRS = ["size", "skip", "pair", "baseline_tokens_per_s", "nested_tokens_per_s", "speedup", "skipped_layers"]

_TEXT = {"run", "size", "dataset", "correction", "benchmark", "metric", "skipped_layers"}
_TEXT |= {"id", "claim", "paper", "measured", "verdict", "figure", "command"}


def collect(root: Path, config: Config) -> None:
    """Write `tables/{runs,training,throughput,throughput_pairs}.csv` under `root`, the experiment's results folder.

    Raises ReportError for a file that is damaged, or that belongs to another run than its path says.
    """
    write_table(root, "runs", _runs(root, config))
    write_table(root, "training", _training(root, config))
    summary, pairs = _throughput(root, config)
    write_table(root, "throughput", summary)
    write_table(root, "throughput_pairs", pairs)


def write_table(root: Path, name: str, table: pd.DataFrame) -> None:
    """Write `tables/{name}.csv`; ten significant digits, so that a value written twice is the same text."""
    path = root / "tables" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.10g", lineterminator="\n", encoding="utf-8")


def read_table(root: Path, name: str) -> pd.DataFrame:
    """A table that `write_table` wrote, names as text ("" for none) and seeds as nullable integers."""
    path = root / "tables" / f"{name}.csv"
    columns = pd.read_csv(path, nrows=0).columns
    # Only numbers may be missing: a data set may be called "null" or "nan", which pandas would take for a gap.
    types = {column: "str" for column in columns if column in _TEXT} | {c: "Int64" for c in columns if c == "seed"}
    numbers = {column: [""] for column in columns if column not in _TEXT}
    return pd.read_csv(path, dtype=types, keep_default_na=False, na_values=numbers)


def nested_skips(config: Config) -> list[int]:
    """The skip settings of the nested runs, ascending; 0 is the baseline and not among them."""
    return sorted(skip for skip in config.skips if skip)


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


def _runs(root: Path, config: Config) -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    first: dict[str, tuple[Path, list[str]]] = {}
    runs = _in_table_order(config)
    for size in config.sizes:
        owners: list[tuple[str, dict[str, object]]] = [
            (f"{size}/{PRETRAINED}", {"size": size, "dataset": None, "correction": PRETRAINED, "skip": 0, "seed": None})
        ]
        owners += [(run.path, run.model_dump()) for run in runs if run.size == size]
        for folder, owner in owners:
            for benchmark in config.benchmarks:
                path = root / "evaluations" / folder / f"{benchmark}.json"
                if path.exists():
                    record = read_record(path, EvaluationRecord)
                    key = {**owner, "benchmark": benchmark}
                    _check_owner(path, record, key)
                    _check_items(path, record, first)
                    rows += [{**key, **accuracy} for accuracy in _accuracies(record)]
    return pd.DataFrame(rows, columns=RUNS).astype({"seed": "Int64"})


def _accuracies(record: EvaluationRecord) -> list[dict[str, object]]:
    """Greedy accuracy, and the mean over items of the share of sampled completions that are right (both 0..1)."""
    greedy = np.mean([item.greedy for item in record.items])
    sampled = np.mean([np.mean(item.sampled) for item in record.items])
    n = len(record.items)
    return [{"metric": "greedy", "value": greedy, "n": n}, {"metric": "sampled", "value": sampled, "n": n}]


def _check_owner(path: Path, record: EvaluationRecord | ThroughputRecord, expected: dict[str, object]) -> None:
    for key, value in expected.items():
        if getattr(record, key) != value:
            raise ReportError.damaged(path, f"{key} is {getattr(record, key)!r}, its path says {value!r}")


def _check_items(path: Path, record: EvaluationRecord, first: dict[str, tuple[Path, list[str]]]) -> None:
    """Differences between runs are paired, so every model must have been asked the same problems."""
    ids = [item.id for item in record.items]
    first_path, first_ids = first.setdefault(record.benchmark, (path, ids))
    if ids != first_ids:
        raise ReportError.damaged(path, f"holds other problems of '{record.benchmark}' than {first_path}")


def _training(root: Path, config: Config) -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    for run in _in_table_order(config):
        path = root / "runs" / run.path / "metrics.jsonl"
        if not path.exists():
            continue
        records = read_records(path, StepRecord)
        if [record.step for record in records] != list(range(1, config.training.steps + 1)):
            raise ReportError.damaged(path, f"its steps are not 1 to {config.training.steps}, one a line")
        for record in records:
            rows.append({"run": run.path, **run.model_dump(), **record.model_dump()})
            rows[-1]["skipped_layers"] = _layers(record.skipped_layers)
    return pd.DataFrame(rows, columns=TRAINING)


def _throughput(root: Path, config: Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row a size and skip, and one row a pair; skip 0 pairs the baseline with itself and shows the noise."""
    summary: list[dict[str, object]] = []
    pairs: list[dict[str, object]] = []
    for size in config.sizes:
        for skip in (0, *nested_skips(config)):
            path = root / "throughput" / size / f"skip{skip}.json"
            if not path.exists():
                continue
            record = read_record(path, ThroughputRecord)
            key: dict[str, object] = {"size": size, "skip": skip}
            _check_owner(path, record, key)
            nested = np.array([pair.nested_tokens_per_s for pair in record.pairs])
            baseline = np.array([pair.baseline_tokens_per_s for pair in record.pairs])
            speedup = median_ratio(nested, baseline)
            summary.append(
                {
                    **key,
                    "tokens_per_s": float(np.median(nested)),
                    "speedup": speedup.estimate,
                    "speedup_low": speedup.low,
                    "speedup_high": speedup.high,
                    "ideal_speedup": record.ideal_speedup,
                    "n": speedup.n,
                }
            )
            for number, pair in enumerate(record.pairs, start=1):
                ratio = pair.nested_tokens_per_s / pair.baseline_tokens_per_s
                pairs.append({**key, "pair": number, **pair.model_dump(), "speedup": ratio})
                pairs[-1]["skipped_layers"] = _layers(pair.skipped_layers)
    return pd.DataFrame(summary, columns=THROUGHPUT), pd.DataFrame(pairs, columns=THROUGHPUT_PAIRS)


def _layers(skipped: list[int]) -> str:
    return " ".join(str(layer) for layer in skipped)
