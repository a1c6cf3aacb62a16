"""The result of an evaluation: the grade of each completion."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nested_reft.config.records.record import Record


class Item(Record):
    """One problem of a benchmark: whether the greedy and each sampled completion was right; `at` other temperatures,
    by metric (`sampled_at`).
    """

    id: str
    greedy: bool
    sampled: list[bool] = Field(min_length=1)
    at: dict[str, list[bool]] = Field(default_factory=dict)


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
