"""The files that the report reads, as typed records, and the one error for a file that is not what it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ReportError(ValueError):
    """A result file that cannot be reported; the message names the file and what to delete."""

    @classmethod
    def damaged(cls, path: Path, reason: str) -> ReportError:
        return cls(f"{path}: {reason}; delete this file and run again: its rule makes it anew")


class Record(BaseModel):
    """Known keys are checked without coercion; keys that the report does not use are let through."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Item(Record):
    """One problem of a benchmark: whether the greedy and each sampled completion was right."""

    id: str
    greedy: bool
    sampled: list[bool] = Field(min_length=1)


class EvaluationRecord(Record):
    """One model on one benchmark."""

    size: str
    dataset: str | None
    correction: str
    skip: int
    seed: int | None
    benchmark: str
    items: list[Item] = Field(min_length=1)


class Pair(Record):
    """One A B measurement of rollout throughput: the full model, then the nested one (tokens per second)."""

    baseline_tokens_per_s: Positive
    nested_tokens_per_s: Positive
    skipped_layers: list[int]


class ThroughputRecord(Record):
    """All pairs of one size and skip; `ideal_speedup` is the cost of all layers over that of the layers kept."""

    size: str
    skip: int
    ideal_speedup: Positive
    pairs: list[Pair] = Field(min_length=1)


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


R = TypeVar("R", bound=Record)


def read_record(path: Path, model: type[R]) -> R:
    """The record in a JSON file, or a ReportError."""
    return _parse(path, _text(path), model)


def read_records(path: Path, model: type[R]) -> list[R]:
    """The records in a JSON-lines file, or a ReportError that also names the line."""
    lines = _text(path).splitlines()
    return [_parse(path, line, model, f"line {number}: ") for number, line in enumerate(lines, start=1)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ReportError.damaged(path, "is not UTF-8 text") from None


def _parse(path: Path, text: str, model: type[R], where: str = "") -> R:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ReportError.damaged(path, f"{where}{key + ': ' if key else ''}{first['msg']}") from None
