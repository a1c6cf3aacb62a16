"""The tidy tables of what is kept of each run besides its scores: sample completions, layers left out, and manifest.

Each function reads the files that exist, in the order of the config's runs; the columns are always there.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nested_reft.config.experiment import Config, stages
from nested_reft.config.records import EvaluationRecord, ManifestRecord, StepRecord, read_record, read_records
from nested_reft.config.run_table import all_runs
from nested_reft.report.collect.measurements import layer_names

MODEL = ["size", "dataset", "strategy", "correction", "skip", "seed"]
SAMPLES = [*MODEL, "benchmark", "problem", "prompt", "gold", "kind", "response", "right"]
LAYERS = [*MODEL, "step", "skipped_layers"]
MANIFESTS = [
    "run", "commit", "dirty", "settings_hash", "python", "packages", "platform", "processor", "cores", "threads",
    "gpus", "wall_seconds", "alarms",
]  # fmt: skip


def samples_table(root: Path, config: Config) -> pd.DataFrame:
    """One row per completion that an evaluation kept as text; one before reinforcement has no data set and no seed."""
    nobody = {"dataset": None, "strategy": "uniform", "skip": 0, "seed": None}
    models = [
        (f"{size}/{stage}", {"size": size, **nobody, "correction": stage})
        for size in config.sizes
        for stage in stages(config)
    ]
    models += [(run.path, run.model_dump()) for run in all_runs(config)]
    rows: list[dict[str, object]] = []
    for folder, model in models:
        for benchmark in config.benchmarks:
            path = root / "evaluations" / folder / f"{benchmark}.json"
            if path.exists():
                for completion in read_record(path, EvaluationRecord).completions:
                    text = completion.model_dump()
                    rows.append({**model, "benchmark": benchmark, "problem": text.pop("id"), **text})
    return pd.DataFrame(rows, columns=SAMPLES).astype({"seed": "Int64"})


def layers_table(root: Path, config: Config) -> pd.DataFrame:
    """One row per step of a nested run: the layers that its rollout left out, however they were chosen."""
    rows = []
    for run in all_runs(config):
        path = root / "runs" / run.path / "metrics.jsonl"
        if run.skip and path.exists():
            for record in read_records(path, StepRecord):
                skipped = layer_names(record.skipped_layers)
                rows.append({**run.model_dump(), "step": record.step, "skipped_layers": skipped})
    return pd.DataFrame(rows, columns=LAYERS)


def manifests_table(root: Path, config: Config) -> pd.DataFrame:
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
