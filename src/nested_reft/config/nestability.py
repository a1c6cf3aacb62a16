"""The settings of how nestable a model is measured to be, and what one measurement passes to its job."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from nested_reft.config.method import Strategy
from nested_reft.config.reward import Reward
from nested_reft.config.sampling import ModelJob, Precision, Sampling
from nested_reft.config.strict import Name, Positive, Strict
from nested_reft.core.layer_selection import SELECTIONS


class NestabilityMeasurement(Strict):
    """How far nested rollouts of a model are from the model itself, for one choice of layers."""

    batches: Annotated[int, Field(ge=2)]
    """Batches of problems; the interval is over them."""
    problems_per_batch: Positive
    """Problems per batch."""
    completions_per_problem: Positive
    """Completions per problem."""
    precisions: tuple[Precision, ...] = ()
    """Precisions of rollouts, to compare them with layers left out: each goes with each strategy at every skip. Their
    rollouts are timed in pairs with those of the whole model in `training.dtype`, so a job then has the machine alone.
    No value twice."""
    seed: int = 0
    """Seed of problems, layers and completions."""

    @field_validator("strategies", "borders", "precisions", check_fields=False)
    @classmethod
    def _none_is_twice(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) != len(values):
            raise ValueError(f"has a value twice: {list(values)}")
        return values


class Nestability(NestabilityMeasurement):
    """How nestable the models are before reinforcement: unmodified, and after the warm-up if there is one."""

    strategies: tuple[Strategy, ...] = Field(("uniform", "least_half", "least"), min_length=1)
    """Layer-selection strategies, as in `layer_choice.strategies`, each at every skip; no value twice."""
    borders: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Borders that the first strategy is measured with beside `training.border`; no value twice."""
    dataset: Name | None = None
    """The one of `datasets` whose problems are answered; null: the first. Layers' influence is always
    measured on the first."""
    without_layer_drop: bool = False
    """Warm up once more without `warmup.layer_drop`, and measure that model too; nothing else uses it."""

    @field_validator("strategies")
    @classmethod
    def _are_measured_alike(cls, strategies: tuple[str, ...]) -> tuple[str, ...]:
        for name in strategies:
            if SELECTIONS[name].adapts:
                raise ValueError(f"'{name}' adapts to a training run, and there is none; remove it")
        return strategies


class NestabilitySettings(ModelJob):
    """How nestable one model is at one skip setting, with one choice of layers."""

    stage: str
    skip: int
    strategy: Strategy
    border: int
    nestability: NestabilityMeasurement
    sampling: Sampling
    rollout_precision: Precision | None = None
    reward: Reward = Reward()
