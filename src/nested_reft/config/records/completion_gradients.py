"""The result of a measurement of bias and variance by distinct completions."""

from __future__ import annotations

from pydantic import Field, model_validator

from nested_reft.config.records.record import Finite, Record


class Expectation(Record):
    """Of a problem's expected gradient with one correction, o: <o, o> and <o, a> with the on-policy one a, both without
    bias, and the mean squared norm of a single completion's estimate.
    """

    own: Finite
    on_policy: Finite
    second_moment: Finite


class CompletionProblem(Record):
    """One problem and its draw of layers.

    `distinct` completions were seen in each of two pairs of pools, on average; `covered_target` and `covered_behavior`
    are their probability under pi and b, `reward_target` and `reward_behavior` the expected rewards. `on_policy` is
    <a, a>, `second_moment` that of a single on-policy completion.
    """

    problem: str
    skipped_layers: list[int]
    distinct: Finite
    covered_target: Finite
    covered_behavior: Finite
    reward_target: Finite
    reward_behavior: Finite
    on_policy: Finite
    second_moment: Finite
    corrections: dict[str, Expectation]


class CompletionGradientRecord(Record):
    """The problems of one size and skip, measured from pools of `pool` completions; a jackknife needs three."""

    size: str
    skip: int
    num_parameters: int
    coordinates: int
    pool: int
    problems: list[CompletionProblem] = Field(min_length=3)

    @model_validator(mode="after")
    def _have_the_same_corrections(self) -> CompletionGradientRecord:
        first = list(self.problems[0].corrections)
        if any(list(problem.corrections) != first for problem in self.problems):
            raise ValueError(f"a problem has other corrections than the first one's {first}")
        return self
