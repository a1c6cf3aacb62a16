"""The result of a measurement of ablation influence."""

from __future__ import annotations

from nested_reft.config.records.record import Finite, Record


class InfluenceRecord(Record):
    """The ablation influence of each layer of one model, in nats per token, a mean over `tokens` of the prompts."""

    size: str
    stage: str
    problems: int
    tokens: int
    influence: list[Finite]
