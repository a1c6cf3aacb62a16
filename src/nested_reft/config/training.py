"""The settings of reinforced fine-tuning, and what one run passes to its job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nested_reft.config.reward import Reward
from nested_reft.config.rollout_engine import Vllm
from nested_reft.config.run import Run
from nested_reft.config.sampling import Precision, Prompt, Sampling
from nested_reft.config.strict import Positive, Strict, settings_hash
from nested_reft.core.layer_selection import SELECTIONS


class Alarms(Strict):
    """When a step's off-policyness is out of the sane range; log and manifest then say so."""

    ess_below: Annotated[float, Field(gt=0, le=1)] | None = 0.5
    """Effective sample size of a batch's tokens, as a share of them; null: no alarm."""
    kl_above: Annotated[float, Field(gt=0)] | None = 0.2
    """KL of behaviour from target policy in nats per token, k3 estimate; null: no alarm."""


class Lora(Strict):
    """Low-rank adapters in every linear layer of the decoder, which are trained instead of the weights."""

    rank: Positive = 16
    """Rank of an adapter's two matrices."""
    alpha: Positive = 32
    """An adapter's product is multiplied by alpha / rank."""


class Training(Sampling):
    """One reinforced fine-tuning run; the same for the baseline and for every nested run.

    Sampling, border, prompt length and dtype also apply to throughput and gradients; completion length, micro-batch
    and checkpointing to gradients; dtype to evaluation.
    """

    steps: Positive
    """Steps of a run, one rollout batch each."""
    problems_per_step: Positive
    """Problems per batch."""
    completions_per_problem: Annotated[int, Field(ge=2)]
    """Completions per problem: the group that advantages are relative to."""
    max_new_tokens: Positive
    """Completions are truncated to this length and graded as they are."""
    max_prompt_tokens: Positive = 1024
    """A longer prompt is an error; prompts are never truncated."""
    learning_rate: Annotated[float, Field(gt=0)]
    """Learning rate of AdamW, constant after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """The gradient is clipped to this norm."""
    advantage_baseline: Literal["group_mean", "leave_one_out"] = "group_mean"
    """What is subtracted from a reward: the mean of the group, or of the other completions only."""
    advantage_std: bool = True
    """Whether advantages are divided by the group's standard deviation."""
    normalisation: Literal["grpo", "dr_grpo", "bnpo", "dapo"] = "grpo"
    """How tokens are averaged: over each completion, then completions (`grpo`); by a constant (`dr_grpo`); over all
    tokens of the batch (`dapo`), or of each micro-batch (`bnpo`)."""
    kl_coefficient: Annotated[float, Field(ge=0)] = 0.0
    """Weight of a k3 penalty on KL from the policy that the run started from; 0: none, and no copy of it is kept."""
    updates_per_rollout: Positive = 1
    """Optimizer steps per batch."""
    update_clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """PPO's clip: the ratio that the gradient flows through counts as at least 1 − this. For `base` it is the ratio to
    the behaviour policy, for the others the ratio to the policy before the first of several updates; `gspo` has its own
    clip. It holds for the measured gradients too."""
    update_clip_high: Annotated[float, Field(gt=0)] = 0.2
    """The upper side: the ratio counts as at most 1 + this."""
    border: Annotated[int, Field(ge=0)] = 1
    """This many layers at either end are never skipped."""
    problems_per_micro_batch: Positive | None = None
    """Problems per backward pass; lower it to save memory; null: all of a step."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of matrix products, of weights in evaluation and throughput, and of frozen ones (`lora`); other weights
    are float32."""
    rollout_precision: Precision | None = None
    """Type of the matrix products of rollouts, in training and where rollouts are measured (throughput, step speed,
    nestability); null: `dtype`. The behaviour policy is then the nested model in that precision, and log b its own.
    `int8` is for large models on CPUs (docs/cheaper.md)."""
    gradient_checkpointing: bool = False
    """Activation checkpointing: the backward pass recomputes each layer; less memory, a third more work."""
    lora: Lora | None = None
    """Train only adapters (needs the extra `lora`); null: all weights. The final policy has them merged."""
    sharding: bool = False
    """Whether the processes of a run, if there are several, shard weights, gradients and optimizer states (FSDP2);
    not with `lora`."""
    checkpoint_every: Positive = 10
    """Steps between checkpoints; an interrupted run loses at most this many."""
    checkpoint_minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes between checkpoints, in place of `checkpoint_every`, for a large model; null: only steps count."""
    alarms: Alarms = Alarms()
    """When off-policyness is reported."""

    @model_validator(mode="after")
    def _adapters_are_whole(self) -> Training:
        if self.sharding and self.lora:
            raise ValueError("sharding: adapters are small; set it to false, or lora to null")
        return self


class Adaptation(Strict):
    """What a run whose number of skipped layers adapts takes from `layer_choice`."""

    target_ess: float
    ess_batches: int


class TrainSettings(Strict):
    """One run of the run table."""

    run: Run
    training: Training
    params: dict[str, float]
    prompt: Prompt
    device: str
    vllm: Vllm | None = None
    """None if the sampler of this package writes the completions."""
    adapt: Adaptation | None = None
    """None for all runs with a fixed number of skipped layers."""

    @model_validator(mode="after")
    def _adaptive_runs_have_a_target(self) -> TrainSettings:
        if self.adapt is None and SELECTIONS[self.run.strategy].adapts:
            raise ValueError(f"adapt: is missing, and run.strategy '{self.run.strategy}' adapts to a target")
        return self

    @property
    def key(self) -> str:
        """Hash of everything that the run depends on; checkpoints of other settings are not continued."""
        return settings_hash(self.canonical_json())

    reward: Reward = Reward()
