"""The result of a nestability measurement."""

from __future__ import annotations

from nested_reft.config.records.record import Record


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
    """The batches of one model and skip for each layer-selection strategy."""

    size: str
    stage: str
    skip: int
    num_layers: int
    completions: int
    strategies: dict[str, list[NestabilityRow]]
