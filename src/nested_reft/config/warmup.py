"""The settings of the warm-up, the first stage of ReFT, and what one warm-up passes to its job."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from nested_reft.config.sampling import ModelJob
from nested_reft.config.sources import HubProblems, Problems
from nested_reft.config.strict import Name, Positive, Strict, settings_hash


class WarmupTraining(Strict):
    """Supervised fine-tuning on worked solutions (Luong et al. 2024), with all weights, before reinforcement."""

    steps: Positive
    """Batches."""
    solutions_per_batch: Positive
    """Worked solutions per batch, from all data sets alike: a larger set has more of them."""
    learning_rate: Annotated[float, Field(gt=0)]
    """The largest learning rate of AdamW, reached after `warmup_steps`; a cosine to 0 follows."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear increase of the learning rate."""
    layer_drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth: the probability that a layer is left out of a batch, of the layers that a rollout may skip;
    0: none. It makes a model tolerate layer skipping."""
    solutions_per_micro_batch: Positive | None = None
    """Solutions per backward pass; lower it to save memory; null: all of a batch."""
    checkpoint_every: Positive = 50
    """Steps between checkpoints; an interrupted warm-up loses at most this many."""
    checkpoint_minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes between checkpoints, in place of `checkpoint_every`, for a large model; null: only steps count."""
    seed: int = 0
    """Seed of the order of the solutions and of the layers that are left out."""


class Warmup(WarmupTraining):
    """The warm-up of every model; reinforcement, throughput and gradients start from the model that it makes."""

    datasets: dict[Name, Problems] = Field(min_length=1)
    """What it learns from; data sets from the hub need a `solution`. Keep them apart from `datasets`: a model that has
    seen the solution of a problem has nothing to learn from its reward."""

    @field_validator("datasets")
    @classmethod
    def _have_solutions(cls, datasets: dict[str, Problems]) -> dict[str, Problems]:
        for name, problems in datasets.items():
            if isinstance(problems, HubProblems) and problems.solution is None:
                raise ValueError(f".{name}.solution: is missing; it says which columns a worked solution is made of")
        return datasets


class WarmupSettings(ModelJob):
    """The warm-up of one model."""

    warmup: WarmupTraining
    border: int
    gradient_checkpointing: bool

    @property
    def key(self) -> str:
        """Hash of everything that the warm-up depends on; checkpoints of other settings are not continued."""
        return settings_hash(self.canonical_json())
