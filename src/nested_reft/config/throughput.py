"""How the speed of rollouts and of training steps is measured, and what one measurement passes to its job."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nested_reft.config.rollout_engine import Vllm
from nested_reft.config.sampling import ModelJob, Precision, Prompt, Sampling
from nested_reft.config.strict import Positive, Strict
from nested_reft.config.training import Training


class Throughput(Strict):
    """Paired, interleaved timing of rollouts, nested against full model."""

    problems: Positive
    """Problems per rollout, from the first data set."""
    completions_per_problem: Positive
    """Completions per problem."""
    new_tokens: Positive
    """Every completion has exactly this many tokens; none ends earlier."""
    pairs: Annotated[int, Field(ge=3)] = 9
    """Pairs that are timed; the interval is over them."""
    warmup_pairs: Positive = 1
    """Pairs before them that do not count."""
    seed: int = 0
    """Seed of the layers, which are drawn uniformly for each pair, and of the completions."""


class ThroughputSettings(ModelJob):
    """Rollout speed of one size at one skip setting, against the same model at skip 0.

    `max_new_tokens` is the length of every completion.
    """

    skip: int
    border: int
    throughput: Throughput
    sampling: Sampling
    rollout_precision: Precision | None = None


class StepSpeed(Strict):
    """Paired, interleaved timing of whole training steps, nested against full model; batches are those of training."""

    new_tokens: Positive | None = None
    """Every completion has exactly this many tokens; none ends earlier. null: `training.max_new_tokens`."""
    pairs: Annotated[int, Field(ge=3)] = 9
    """Pairs that are timed; the interval is over them."""
    warmup_pairs: Positive = 1
    """Pairs before them that do not count."""
    seed: int = 0
    """Seed of problems, layers (drawn uniformly for each pair) and completions."""


class StepSpeedSettings(Strict):
    """Speed of a training step of one size at one skip setting, against the same step at skip 0.

    `training` has what a step depends on; its `max_new_tokens` is the length of every completion.
    """

    size: str
    skip: int
    correction: str
    params: dict[str, float]
    step_speed: StepSpeed
    training: Training
    prompt: Prompt
    device: str
    vllm: Vllm | None = None
    """None if the sampler of this package writes the completions."""
