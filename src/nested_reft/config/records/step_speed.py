"""The result of a measurement of whole training steps."""

from __future__ import annotations

from pydantic import Field

from nested_reft.config.records.record import Positive, Record


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
