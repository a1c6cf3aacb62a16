"""The settings of how accuracy is measured, and what one policy's evaluation passes to its job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nested_reft.config.reward import Reward
from nested_reft.config.rollout_engine import Vllm
from nested_reft.config.run import PRETRAINED, Run, Stage
from nested_reft.config.sampling import Precision, Prompt, Sampling
from nested_reft.config.strict import Positive, Strict


class EvaluationMeasurement(Sampling):
    """Greedy and sampled accuracy on the benchmarks; the sampling settings are for the latter."""

    samples_per_problem: Positive
    """Sampled completions per problem, besides the greedy one."""
    max_new_tokens: Positive
    """Completions are truncated to this length and graded as they are."""
    max_prompt_tokens: Positive = 1024
    """A longer prompt is an error; prompts are never truncated."""
    batch_problems: Positive = 64
    """Problems answered at once; lower it to save memory. vLLM is given all of them, and answers as many as fit."""
    rollout_precision: Precision | None = None
    """Type of the matrix products of the completions; null: `training.dtype`. Another measures another policy."""
    seed: int = 0
    """Seed of the sampled completions, the same for all models."""


class Evaluation(EvaluationMeasurement):
    """How accuracy is measured and judged.

    Changing the judgement (`headline`, `parity_margin`) does not repeat an evaluation.
    """

    benchmarks_per_job: Positive = 1
    """Above 1, it saves small models starting a process for each benchmark."""
    headline: Literal["greedy", "sampled"] = "sampled"
    """Which of the two accuracies the claims are about."""
    parity_margin: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """On par: the whole 95 % interval of the difference from the baseline is within ± this; 0.05 is 5 points."""
    start_temperatures: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """The model that reinforcement starts from is sampled at these temperatures too, each below `temperature`: they
    tell what the baseline learns from sharper sampling. None twice."""

    @model_validator(mode="after")
    def _start_is_sampled_sharper(self) -> Evaluation:
        if len(set(self.start_temperatures)) < len(self.start_temperatures):
            raise ValueError(f"start_temperatures: has a value twice: {list(self.start_temperatures)}")
        if max(self.start_temperatures, default=0.0) >= self.temperature:
            raise ValueError(
                f"start_temperatures: must be below temperature, {self.temperature:g}: {list(self.start_temperatures)}"
            )
        return self


def sampled_at(temperature: float) -> str:
    """The metric of the answers at one of `start_temperatures`."""
    return f"sampled at T = {temperature:g}"


class EvaluateSettings(Strict):
    """One policy on some benchmarks; `run` is None for a model before reinforcement, and `stage` says which."""

    size: str
    run: Run | None
    stage: Stage = PRETRAINED
    benchmarks: tuple[str, ...]
    evaluation: EvaluationMeasurement
    temperatures: tuple[float, ...] = ()
    """Besides that of `evaluation`."""
    prompt: Prompt
    dtype: str
    device: str
    vllm: Vllm | None = None
    """None if the sampler of this package writes the completions."""
    reward: Reward = Reward()
