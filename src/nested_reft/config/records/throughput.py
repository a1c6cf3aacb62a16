"""The result of a throughput measurement."""

from __future__ import annotations

from pydantic import Field

from nested_reft.config.records.record import Positive, Record


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
