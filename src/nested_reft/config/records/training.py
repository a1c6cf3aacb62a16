"""The results of a training run: the metrics of its steps, and its manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nested_reft.config.records.record import Positive, Record


class StepRecord(Record):
    """One training step; seconds and tokens are of that step, the diagnostics are of pi/b before clipping."""

    step: int
    reward: float
    reward_std: float | None
    completion_length: float
    rollout_seconds: float
    reward_seconds: float
    update_seconds: float
    rollout_tokens_per_s: float
    tokens_per_s: Positive
    skipped_layers: list[int]
    loss: float | None
    grad_norm: float | None
    learning_rate: float
    kl_k1: float | None
    kl_k3: float | None
    chi2: float | None
    ess: float | None
    ess_sequence: float | None
    ratio_mean: float | None
    ratio_min: float | None
    ratio_max: float | None
    ratio_q01: float | None
    ratio_q05: float | None
    ratio_q50: float | None
    ratio_q95: float | None
    ratio_q99: float | None
    clip_fraction: float | None
    # Of whole completions; those above are of tokens.
    kl_k1_sequence: float | None
    kl_k3_sequence: float | None
    chi2_sequence: float | None
    clip_fraction_sequence: float | None
    ratio_min_sequence: float | None
    ratio_mean_sequence: float | None
    ratio_max_sequence: float | None
    ratio_q01_sequence: float | None
    ratio_q05_sequence: float | None
    ratio_q50_sequence: float | None
    ratio_q95_sequence: float | None
    ratio_q99_sequence: float | None
    # Of the weights that the correction computes from the ratios.
    weight_mean: float | None
    weight_max: float | None
    surrogate_clip_fraction: float | None
    kl_reference: float | None = None  # with a KL term only


class ManifestRecord(Record):
    """What a training run was made with; `commit` and `dirty` are None if the source is not a git checkout."""

    commit: str | None
    dirty: bool | None
    settings_hash: str
    settings: dict[str, Any]
    python: str
    versions: dict[str, str]
    platform: str
    processor: str
    cores: int | None
    threads: int
    gpus: list[str]
    wall_seconds: float
    rollout_engine: str = "torch"  # runs of before this was recorded had no other
    alarms: list[dict[str, Any]]
    answers_cut_off: int = 0  # by the grader's time limit; runs of before this was recorded do not say


def write_steps(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per training step; pydantic's ValidationError for one that is no `StepRecord`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for row in rows:
        StepRecord.model_validate(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
