"""Where problems and models come from: generated here, or from the Hugging Face hub (or its mirror)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from nested_reft.config.strict import Positive, Strict

# --- where problems come from -----------------------------------------------------------------------------------


class GeneratedProblems(Strict):
    """Word problems made by `tasks.problems`; which numbers are allowed depends on the role (train or test)."""

    source: Literal["generated"]
    problems: Positive
    steps: tuple[Positive, Positive] = (2, 2)
    start: tuple[Positive, Positive] = (2, 30)
    operands: tuple[Positive, Positive] = (2, 9)
    phrasing: Literal["standard", "new", "any"] = "standard"
    distractors: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = (0, 0)

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> GeneratedProblems:
        for key in ("steps", "start", "operands", "distractors"):
            low, high = getattr(self, key)
            if low > high:
                raise ValueError(f"{key}: the first number must not be above the second, got [{low}, {high}]")
        return self


class HubProblems(Strict):
    """A data set of the Hugging Face hub (or of the data mirror), and which of its columns hold what.

    The columns of `question` are joined by a space. Of those of `answer` the first that the data has is used, for data
    sets whose versions name it differently. `answer_pattern` is a regular expression whose first group is the answer.
    """

    source: Literal["hub"]
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: str = "main"
    name: str | None = None
    split: str
    question: tuple[str, ...]
    answer: tuple[str, ...]
    answer_pattern: str | None = None
    limit: Positive | None = None

    @field_validator("question", "answer", mode="before")
    @classmethod
    def _one_column_is_a_list_of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


Problems = Annotated[GeneratedProblems | HubProblems, Field(discriminator="source")]


# --- where models come from -------------------------------------------------------------------------------------


class ScratchModel(Strict):
    """A Qwen2-architecture model that the DAG itself pre-trains on generated problems."""

    source: Literal["scratch"]
    layers: Positive
    width: Positive
    heads: Positive
    key_value_heads: Positive
    feed_forward: Positive
    pretraining_steps: Positive
    pretraining_learning_rate: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ScratchModel:
        if self.width % (2 * self.heads):
            raise ValueError(f"width: {self.width} must be a multiple of 2 * heads = {2 * self.heads}")
        if self.heads % self.key_value_heads:
            raise ValueError(f"key_value_heads: {self.key_value_heads} does not divide heads = {self.heads}")
        return self


class HubModel(Strict):
    """A causal language model of the hub (or of the mirror). `layers` is checked against the downloaded config."""

    source: Literal["hub"]
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: str = "main"
    layers: Positive


Model = Annotated[ScratchModel | HubModel, Field(discriminator="source")]


class Pretraining(Strict):
    """How scratch models are made. Half-wrong solutions leave something for reinforcement to choose between."""

    problems: GeneratedProblems
    batch_size: Positive
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    wrong_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    layer_drop: Annotated[float, Field(ge=0, lt=1)] = 0.1
    border: Annotated[int, Field(ge=0)] = 1
    seed: int = 0
