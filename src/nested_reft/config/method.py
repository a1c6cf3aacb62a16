"""The settings of the method: prompt, corrections, sampling, layer choice and training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from nested_reft.config.errors import nearest, shortened
from nested_reft.config.strict import Positive, Strict
from nested_reft.core.corrections import CORRECTIONS
from nested_reft.core.layer_selection import SELECTIONS

# The baseline is not a trainer of its own: it is this correction at skip 0, where the ratio is 1.
BASELINE_CORRECTION = "base"
PRETRAINED = "pretrained"


def _name_in(registry: Mapping[str, Any]) -> Callable[[str], str]:
    """A check that a name is in the registry as it is now, not as it was when this module was imported."""

    def check(name: str) -> str:
        if name not in registry:
            raise ValueError(f"unknown value {shortened(name)}, {nearest(name, registry)}")
        return name

    return check


def _names_of(registry: Mapping[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda schema: schema.update(enum=list(registry))


Correction = Annotated[str, AfterValidator(_name_in(CORRECTIONS)), Field(json_schema_extra=_names_of(CORRECTIONS))]
# How the skipped layers are chosen; `core/layer_selection.py` has the formulas.
Strategy = Annotated[str, AfterValidator(_name_in(SELECTIONS)), Field(json_schema_extra=_names_of(SELECTIONS))]

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.]*$")]
Percent = Annotated[int, Field(ge=0, lt=100)]


class Prompt(Strict):
    """How a question becomes a prompt."""

    style: Literal["plain", "chat"]
    """`plain`: the question as it is; `chat`: in the model's own chat template."""
    system: str | None = None
    """The system message of the chat template; null: none. `plain` has none."""
    suffix: str = ""
    """Ends the question, in both styles."""


def _without_nulls(corrections: Any) -> Any:
    """A parameter that is null has its default."""
    if not isinstance(corrections, Mapping):
        return corrections
    return {
        name: {key: value for key, value in params.items() if value is not None}
        if isinstance(params, Mapping)
        else params
        for name, params in corrections.items()
    }


def _with_defaults(corrections: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Every parameter of every correction, so that spelling out a default changes nothing."""
    return {name: CORRECTIONS[name].resolve(params) for name, params in corrections.items()}


# By correction its parameters: those of the registry, whose defaults are filled in.
Corrections = Annotated[
    dict[Correction, dict[str, float]],
    Field(min_length=1),
    BeforeValidator(_without_nulls),
    AfterValidator(_with_defaults),
]


class Sampling(Strict):
    """What completions are drawn from."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """The logits are divided by it."""
    top_k: Positive | None = None
    """Sample from the k most probable tokens; null: from all."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Sample from the fewest most probable tokens that hold this probability together; null: from all."""


class Alarms(Strict):
    """Where a step's off-policyness leaves the sane range; log and manifest then say so."""

    ess_below: Annotated[float, Field(gt=0, le=1)] | None = 0.5
    """Effective sample size of a batch's tokens, as a share of them; null: no alarm."""
    kl_above: Annotated[float, Field(gt=0)] | None = 0.2
    """KL of behaviour from target policy in nats a token, k3 estimate; null: no alarm."""


class LayerChoice(Strict):
    """Ways to choose the skipped layers."""

    strategies: tuple[Strategy, ...] = Field(("uniform",), min_length=1)
    """The first is that of all runs, the others are compared with it in one cell of the grid; no value twice.
    `core/layer_selection.py` has the formulas; `uniform` is the paper's."""
    skip: Percent | None = None
    """The skip setting of the comparison, one of `skips`; needed with more than one strategy."""
    correction: Correction | None = None
    """The correction of the comparison, one of `corrections`; needed with more than one strategy."""

    @model_validator(mode="after")
    def _a_comparison_has_a_cell(self) -> LayerChoice:
        if len(set(self.strategies)) != len(self.strategies):
            raise ValueError(f"strategies: has a value twice: {list(self.strategies)}")
        for key in ("skip", "correction"):
            if len(self.strategies) > 1 and not getattr(self, key):
                raise ValueError(f"{key}: is missing; it says where {' and '.join(self.strategies)} are compared")
        return self


class Lora(Strict):
    """Low-rank adapters in every linear layer of the decoder, which are trained in place of the weights."""

    rank: Positive = 16
    """Of the two matrices of an adapter."""
    alpha: Positive = 32
    """An adapter's product is multiplied by alpha / rank."""


class Training(Sampling):
    """One reinforced fine-tuning run; the same for the baseline and for every nested run.

    Sampling, border, prompt length and dtype hold for throughput and gradients too, completion length, micro-batch
    and checkpointing for gradients, and dtype for evaluation.
    """

    steps: Positive
    """Rollout batches of a run."""
    problems_per_step: Positive
    """Problems in a batch."""
    completions_per_problem: Annotated[int, Field(ge=2)]
    """The group that advantages are relative to."""
    max_new_tokens: Positive
    """A completion is cut here, and graded as it stands."""
    max_prompt_tokens: Positive = 1024
    """A longer prompt is an error; none is ever cut."""
    learning_rate: Annotated[float, Field(gt=0)]
    """Of AdamW, constant after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of AdamW."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """The gradient's norm is clipped here."""
    advantage_baseline: Literal["group_mean", "leave_one_out"] = "group_mean"
    """What is subtracted from a reward: the group's mean, or that of the other completions alone."""
    advantage_std: bool = True
    """Whether advantages are divided by the group's standard deviation."""
    normalisation: Literal["grpo", "dr_grpo", "bnpo", "dapo"] = "grpo"
    """How tokens are averaged: over each completion, then completions (`grpo`); by a constant (`dr_grpo`); over all
    tokens of the batch (`dapo`), or of each micro-batch (`bnpo`)."""
    kl_coefficient: Annotated[float, Field(ge=0)] = 0.0
    """Weight of a k3 penalty on KL from the policy that the run started from; 0: none, and no copy is kept."""
    updates_per_rollout: Positive = 1
    """Optimiser steps on one batch."""
    update_clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """PPO clip of the ratio to the policy before the first of several updates: below 1 − this. `base` has the clip
    of its own parameters alone."""
    update_clip_high: Annotated[float, Field(gt=0)] = 0.2
    """The same above 1 + this."""
    border: Annotated[int, Field(ge=0)] = 1
    """So many layers at either end are never skipped."""
    problems_per_micro_batch: Positive | None = None
    """Problems in one backward pass, for memory; null: all of a step."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products, and of the weights in evaluation and throughput; elsewhere weights are float32."""
    gradient_checkpointing: bool = False
    """Whether the backward pass computes the inside of each layer again: less memory, a third more work."""
    lora: Lora | None = None
    """Train adapters alone (needs the extra `lora`); null: all weights. The final policy has them merged."""
    sharding: bool = False
    """Whether the processes of a run, where there are several, share out weights, gradients and optimizer states
    (FSDP2); not with `lora`."""
    checkpoint_every: Positive = 10
    """Steps between checkpoints; an interrupted run loses at most so many."""
    alarms: Alarms = Alarms()
    """When off-policyness is reported."""

    @model_validator(mode="after")
    def _adapters_are_whole(self) -> Training:
        if self.sharding and self.lora:
            raise ValueError("sharding: adapters are small; set it to false, or lora to null")
        return self
