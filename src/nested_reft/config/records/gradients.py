"""The result of a measurement of bias and variance."""

from __future__ import annotations

from pydantic import Field, model_validator

from nested_reft.config.records.record import Finite, Record

Matrix = list[list[Finite]]


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
