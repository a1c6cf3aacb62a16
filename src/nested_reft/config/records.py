"""The schemas of the result files, which the jobs that measure fill and the report parses.

A JSON file has the keys in the order of its class; those of `StepRecord` come in the order in which a step finds them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nested_reft.runtime.errors import UserError
from nested_reft.runtime.files import write_json

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Matrix = list[list[Finite]]


class RecordError(UserError, ValueError):
    """A result file that is not as its schema says; the message names the file and what to delete."""

    @classmethod
    def damaged(cls, path: Path, reason: str) -> RecordError:
        return cls(f"{path}: {reason}; delete this file and run again: its rule makes it again")


class Record(BaseModel):
    """Known keys are checked without coercion; unknown ones are ignored, as a later version may add some."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Item(Record):
    """One problem of a benchmark: whether the greedy and each sampled completion was right."""

    id: str
    greedy: bool
    sampled: list[bool] = Field(min_length=1)


class Completion(Record):
    """One graded completion as text, with the whole prompt; `id` is the problem's."""

    id: str
    prompt: str
    gold: str
    kind: Literal["greedy", "sampled"]
    response: str
    right: bool


class EvaluationRecord(Record):
    """One model on one benchmark; `strategy` is the run's, "uniform" for a model before reinforcement."""

    size: str
    dataset: str | None
    correction: str
    skip: int
    strategy: str
    seed: int | None
    benchmark: str
    rollout_engine: str
    items: list[Item] = Field(min_length=1)
    completions: list[Completion]
    seconds: float
    answers_cut_off: int = 0  # by the grader's time limit


class Pair(Record):
    """One A B measurement of rollout throughput: the full model, then the nested one (tokens per second)."""

    baseline_tokens_per_s: Positive
    nested_tokens_per_s: Positive
    skipped_layers: list[int]


class ThroughputRecord(Record):
    """All pairs of one size and skip; `ideal_speedup` is the cost of all layers over that of the layers kept."""

    size: str
    skip: int
    num_layers: int
    num_skipped: int
    ideal_speedup: Positive
    pairs: list[Pair] = Field(min_length=1)
    hardware: str


class Phases(Record):
    """Seconds of a training step, by phase."""

    rollout: Positive
    reward: float = Field(ge=0)
    update: float = Field(ge=0)

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return self.rollout + self.reward + self.update


class StepPair(Record):
    """One A B measurement of whole training steps, with rollouts of the full model and nested ones."""

    baseline: Phases
    nested: Phases
    skipped_layers: list[int]


class StepSpeedRecord(Record):
    """All pairs of one size and skip; every step writes `completions` of `new_tokens` tokens."""

    size: str
    skip: int
    completions: int = Field(gt=0)
    new_tokens: int = Field(gt=0)
    pairs: list[StepPair] = Field(min_length=1)


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


class Products(Record):
    """A correction's gradient estimates o_j: <o_j, o_k>, and <a_j, o_k> with the on-policy ones (batches, batches)."""

    own: Matrix
    on_policy: Matrix


class GradientRecord(Record):
    """Inner products of gradient estimates of one size and skip; `statistics.gradients` says which.

    `completions` is per batch. A delete-one jackknife over pairs of batches needs three batches.
    """

    size: str
    skip: int
    num_parameters: int
    coordinates: int
    completions: int = Field(gt=0)
    batches: int = Field(ge=3)
    on_policy: Matrix
    repeat: Matrix
    on_policy_repeat: Matrix
    corrections: dict[str, Products]

    @model_validator(mode="after")
    def _are_square(self) -> GradientRecord:
        matrices = {name: getattr(self, name) for name in ("on_policy", "repeat", "on_policy_repeat")}
        for correction, products in self.corrections.items():
            matrices |= {f"{correction}.own": products.own, f"{correction}.on_policy": products.on_policy}
        for name, matrix in matrices.items():
            if [len(row) for row in matrix] != [self.batches] * self.batches:
                raise ValueError(f"{name} is not {self.batches} x {self.batches}, one row and column per batch")
        return self


class NestabilityRow(Record):
    """One batch of rollouts without `skipped_layers`; the diagnostics are of pi/b before clipping."""

    skipped_layers: list[int]
    tokens: int
    reward: float
    kl_k1: float
    kl_k3: float
    ess: float
    ess_sequence: float


class NestabilityRecord(Record):
    """The batches of one model and skip for each way to choose layers."""

    size: str
    stage: str
    skip: int
    num_layers: int
    completions: int
    strategies: dict[str, list[NestabilityRow]]


class InfluenceRecord(Record):
    """The ablation influence of each layer of one model, in nats per token, a mean over `tokens` of the prompts."""

    size: str
    stage: str
    problems: int
    tokens: int
    influence: list[Finite]


class ExactRow(Record):
    """One estimator of a model small enough to enumerate its completions, so that nothing here is sampled.

    `skipped` names the layers ("1 2"); "drawn" is a random draw of `num_skipped` layers, which is 0 on-policy.
    """

    skipped: str
    num_skipped: int
    correction: str
    params: str
    baseline: str
    std: bool
    normalisation: str
    bias: float
    cosine: float
    variance_ratio: float
    second_moment_ratio: float
    max_weight: float


class ExactRecord(Record):
    """All estimators, with every choice of layers to leave out."""

    rows: list[ExactRow]


R = TypeVar("R", bound=Record)


def write_record(path: Path, record: Record, indent: int | None = 1) -> None:
    """Write a record as JSON; `indent` as of `write_json`."""
    write_json(path, record.model_dump(), indent)


def write_steps(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per training step; pydantic's ValidationError for one that is no `StepRecord`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for row in rows:
        StepRecord.model_validate(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_record(path: Path, model: type[R]) -> R:
    """The record in a JSON file, or a RecordError."""
    return _parse(path, _text(path), model)


def read_records(path: Path, model: type[R]) -> list[R]:
    """The records in a JSON-lines file, or a RecordError that also names the line."""
    lines = _text(path).splitlines()
    return [_parse(path, line, model, f"line {number}: ") for number, line in enumerate(lines, start=1)]


def check_owner(path: Path, record: Record, expected: Mapping[str, object]) -> None:
    """Raise RecordError if a record says that it belongs to another run than its path does."""
    for key, value in expected.items():
        if getattr(record, key) != value:
            raise RecordError.damaged(path, f"{key} is {getattr(record, key)!r}, its path says {value!r}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RecordError.damaged(path, "is not UTF-8 text") from None


def _parse(path: Path, text: str, model: type[R], where: str = "") -> R:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecordError.damaged(path, f"{where}{key + ': ' if key else ''}{first['msg']}") from None
