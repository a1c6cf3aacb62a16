"""The result of a nestability measurement."""

from __future__ import annotations

from pydantic import Field

from nested_reft.config.records.record import Positive, Record


class NestabilityRow(Record):
    """One batch of rollouts without `skipped_layers`; the diagnostics are of pi/b before clipping."""

    skipped_layers: list[int]
    tokens: int
    reward: float
    kl_k1: float
    kl_k3: float
    ess: float
    ess_sequence: float


class BehaviourRow(NestabilityRow):
    """One batch of rollouts of a behaviour policy, and the seconds of the whole model's on the same prompts."""

    seconds: Positive
    baseline_tokens: int
    baseline_seconds: Positive

    @property
    def speedup(self) -> float:
        """Its tokens per second over the baseline's."""
        return self.tokens / self.seconds / (self.baseline_tokens / self.baseline_seconds)


class NestabilityRecord(Record):
    """The batches of one model at one skip, with one choice of layers; `behaviours`: those that are timed, by
    precision.
    """

    size: str
    stage: str
    skip: int
    strategy: str
    border: int
    num_layers: int
    completions: int
    batches: list[NestabilityRow]
    behaviours: dict[str, list[BehaviourRow]] = Field(default_factory=dict)
