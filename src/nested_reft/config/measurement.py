"""The settings of what is measured: accuracy, throughput, and bias and variance of the gradient estimates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nested_reft.config.method import Corrections, Sampling
from nested_reft.config.strict import Positive, Strict


class Evaluation(Sampling):
    """Greedy and sampled accuracy on the benchmarks; the sampling here is of the sampled one."""

    samples_per_problem: Positive
    """Sampled completions of a problem, beside one greedy one."""
    max_new_tokens: Positive
    """A completion is cut here, and graded as it stands."""
    max_prompt_tokens: Positive = 1024
    """A longer prompt is an error; none is ever cut."""
    batch_problems: Positive = 64
    """Problems that are answered together, for memory."""
    benchmarks_per_job: Positive = 1
    """Above 1 it spares small models the start-up of a process for each benchmark."""
    headline: Literal["greedy", "sampled"] = "sampled"
    """Which of the two accuracies the claims are about."""
    parity_margin: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """On par is a difference from the baseline whose whole 95 % interval is within ± this; 0.05 is 5 points."""
    seed: int = 0
    """Of the sampled completions; the same for all models."""


class Throughput(Strict):
    """Paired, interleaved timing of rollouts, nested against full model."""

    problems: Positive
    """Problems of the first data set in a rollout."""
    completions_per_problem: Positive
    """Completions of each."""
    new_tokens: Positive
    """Every completion has exactly so many tokens; none ends before."""
    pairs: Annotated[int, Field(ge=3)] = 9
    """Pairs that are timed; the interval is over them."""
    warmup_pairs: Positive = 1
    """Pairs before them that are not counted."""
    seed: int = 0
    """Of layers, drawn uniformly for each pair, and completions."""


class GradientMeasurement(Strict):
    """Bias and variance of the gradient estimates of a pre-trained model, against on-policy ones."""

    corrections: Corrections
    """The corrections to measure, each with its parameters or `{}`; they need not be those of the runs."""
    batches: Annotated[int, Field(ge=4)]
    """Batches of problems; the interval is over them. Layers are chosen as in a run, with the first of
    `layer_choice.strategies`."""
    problems_per_batch: Positive
    """Problems of the first data set in a batch."""
    completions_per_problem: Annotated[int, Field(ge=2)]
    """The group that advantages are relative to."""
    coordinates: Positive = 250_000
    """Gradients are compared at so many parameters, drawn once; at all where the model has no more."""
    seed: int = 0
    """Of parameters, problems, layers and completions."""


class Gradients(GradientMeasurement):
    """Bias and variance of the gradient estimates of the pre-trained models, and how they are judged.

    Another judgement (`bias_margin`, `variance_limit`) measures nothing again.
    """

    bias_margin: Annotated[float, Field(gt=0)] = 0.1
    """Unbiased is a relative bias whose whole 95 % interval is within this."""
    variance_limit: Annotated[float, Field(ge=1)] = 2.0
    """Controlled is a variance, over the on-policy estimate's, whose whole 95 % interval is at or below this."""
