"""The result of the exact study."""

from __future__ import annotations

from nested_reft.config.records.record import Record


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
