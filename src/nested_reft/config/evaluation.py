"""The settings of how accuracy is measured, and what one policy's evaluation hands to its job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nested_reft.config.run import Run
from nested_reft.config.sampling import Prompt, Sampling
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


class EvaluateSettings(Strict):
    """One policy on some benchmarks; `run` is None for a pre-trained model."""

    size: str
    run: Run | None
    benchmarks: tuple[str, ...]
    evaluation: Evaluation
    prompt: Prompt
    dtype: str
    device: str
