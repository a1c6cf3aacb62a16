"""The settings of how bias and variance are measured and judged, and what one measurement passes to its job."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nested_reft.config.method import Corrections, Strategy
from nested_reft.config.reward import Reward
from nested_reft.config.sampling import ModelJob, Sampling
from nested_reft.config.strict import Positive, Strict


class GradientBatches(Strict):
    """What the gradient estimates are made from, on-policy and nested."""

    batches: Annotated[int, Field(ge=4)]
    """Batches of problems; the interval is over them. Layers are chosen as in a run, with the first of
    `layer_choice.strategies`."""
    problems_per_batch: Positive
    """Problems per batch, from the first data set."""
    completions_per_problem: Annotated[int, Field(ge=2)]
    """Completions per problem: the group that advantages are relative to."""
    coordinates: Positive = 250_000
    """Gradients are compared at this many parameters, drawn once; at all of them if the model has no more."""
    seed: int = 0
    """Seed of parameters, problems, layers and completions."""


class GradientMeasurement(GradientBatches):
    """Bias and variance of the gradient estimates of a pre-trained model, against on-policy ones."""

    corrections: Corrections
    """The corrections to measure, each with its parameters or `{}`; they need not be those of the runs."""


class Completions(Strict):
    """Bias and variance problem by problem, from distinct completions with their probabilities (docs/theory.md)."""

    problems: Annotated[int, Field(ge=3)]
    """Problems, from the first data set, each with layers of its own; the interval is over them."""
    pool: Annotated[int, Field(ge=2)]
    """Completions of each of four pools: two of the model, two of the nested view. The more, the more of the
    probability is in them, and the less noise is in the estimates."""


class Gradients(GradientMeasurement):
    """Bias and variance of the gradient estimates of the pre-trained models, and how they are judged.

    Changing the judgement (`bias_margin`, `variance_limit`) does not repeat the measurement.
    """

    by_completion: Completions | None = None
    """A second estimator of both, for models whose answers are so short that a few distinct ones hold most of the
    probability. It has the same `corrections`, `coordinates` and `seed`; what it measures is what C3 and C4 are judged
    by. Needs all tokens to be sampled from (`training.top_k` and `top_p` null). null: it is not measured."""

    bias_margin: Annotated[float, Field(gt=0)] = 0.1
    """Unbiased: the whole 95 % interval of the relative bias is within this."""
    variance_limit: Annotated[float, Field(ge=1)] = 2.0
    """Controlled: the whole 95 % interval of the variance, over the on-policy estimate's, is at or below this."""


class OnPolicySettings(ModelJob):
    """On-policy gradient estimates of one pre-trained model, which those of every skip setting are compared with."""

    gradients: GradientBatches
    sampling: Sampling
    problems_per_micro_batch: int | None
    gradient_checkpointing: bool
    reward: Reward = Reward()


class GradientSettings(OnPolicySettings):
    """Bias and variance of the gradient estimates of one pre-trained model at one skip setting."""

    skip: int
    gradients: GradientMeasurement
    strategy: Strategy
    border: int
    update_clip_low: float
    update_clip_high: float


class CompletionMeasurement(Completions):
    """What the distinct completions are measured for, and with which random numbers."""

    corrections: Corrections
    coordinates: int
    seed: int

    @property
    def batches(self) -> int:
        """One for each problem."""
        return self.problems

    @property
    def problems_per_batch(self) -> int:
        """A batch is a problem with its draw of layers."""
        return 1


class CompletionGradientSettings(ModelJob):
    """Bias and variance problem by problem of one pre-trained model at one skip setting."""

    skip: int
    completions: CompletionMeasurement
    strategy: Strategy
    border: int
    update_clip_low: float
    update_clip_high: float
    temperature: float
    gradient_checkpointing: bool
    reward: Reward = Reward()
