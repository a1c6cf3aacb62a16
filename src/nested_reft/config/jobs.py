"""What each rule hands to its sub-command: only what the job's result depends on, as canonical JSON.

Snakemake compares this text with that of the last run, so a changed setting reruns the jobs that it concerns and no
others; its hash names the run's checkpoints.
"""

from __future__ import annotations

from typing import Literal, TypeVar

from nested_reft.config.experiment import Config, Run
from nested_reft.config.measurement import Evaluation, GradientMeasurement, Throughput
from nested_reft.config.method import Prompt, Sampling, Strategy, Training
from nested_reft.config.sources import Model, Pretraining, Problems
from nested_reft.config.strict import Strict, settings_hash

T = TypeVar("T", bound=Strict)


class DataSettings(Strict):
    """One set of problems; generated ones depend on the role, so that train and test share no numbers."""

    name: str
    role: Literal["train", "test"]
    problems: Problems


class ModelSettings(Strict):
    """One pre-trained model: made here, or fetched."""

    size: str
    model: Model
    pretraining: Pretraining | None
    prompt: Prompt
    device: str


class TrainSettings(Strict):
    """One run of the run table."""

    run: Run
    training: Training
    params: dict[str, float]
    prompt: Prompt
    device: str

    @property
    def key(self) -> str:
        """Hash of everything that the run depends on; checkpoints of other settings are not continued."""
        return settings_hash(self.canonical_json())


class EvaluateSettings(Strict):
    """One policy on some benchmarks; `run` is None for a pre-trained model."""

    size: str
    run: Run | None
    benchmarks: tuple[str, ...]
    evaluation: Evaluation
    prompt: Prompt
    dtype: str
    device: str


class ThroughputSettings(Strict):
    """Rollout speed of one size at one skip setting, against the same model at skip 0."""

    size: str
    skip: int
    throughput: Throughput
    prompt: Prompt
    sampling: Sampling
    border: int
    max_prompt_tokens: int
    dtype: str
    device: str


class GradientSettings(Strict):
    """Bias and variance of the gradient estimates of one pre-trained model at one skip setting."""

    size: str
    skip: int
    gradients: GradientMeasurement
    prompt: Prompt
    sampling: Sampling
    strategy: Strategy
    border: int
    max_new_tokens: int
    max_prompt_tokens: int
    problems_per_micro_batch: int | None
    gradient_checkpointing: bool
    dtype: str
    device: str


def data_settings(config: Config, role: Literal["train", "test"], name: str) -> DataSettings:
    problems = (config.datasets if role == "train" else config.benchmarks)[name]
    return DataSettings(name=name, role=role, problems=problems)


def model_settings(config: Config, size: str) -> ModelSettings:
    model = config.sizes[size]
    scratch = model.source == "scratch"
    return ModelSettings(
        size=size,
        model=model,
        pretraining=config.pretraining if scratch else None,
        prompt=config.prompt,
        device=config.device if scratch else "cpu",
    )


def train_settings(config: Config, run: Run) -> TrainSettings:
    return TrainSettings(
        run=run,
        training=config.training,
        params=config.corrections[run.correction],
        prompt=config.prompt,
        device=config.device,
    )


def evaluate_settings(config: Config, size: str, run: Run | None, benchmarks: tuple[str, ...]) -> EvaluateSettings:
    return EvaluateSettings(
        size=size,
        run=run,
        benchmarks=benchmarks,
        evaluation=config.evaluation,
        prompt=config.prompt,
        dtype=config.training.dtype,
        device=config.device,
    )


def throughput_settings(config: Config, size: str, skip: int) -> ThroughputSettings:
    training = config.training
    return ThroughputSettings(
        size=size,
        skip=skip,
        throughput=config.throughput,
        prompt=config.prompt,
        sampling=_part(Sampling, training),
        border=training.border,
        max_prompt_tokens=training.max_prompt_tokens,
        dtype=training.dtype,
        device=config.device,
    )


def gradient_settings(config: Config, size: str, skip: int) -> GradientSettings:
    training = config.training
    return GradientSettings(
        size=size,
        skip=skip,
        gradients=_part(GradientMeasurement, config.gradients),
        prompt=config.prompt,
        sampling=_part(Sampling, training),
        strategy=config.layer_choice.strategies[0],
        border=training.border,
        max_new_tokens=training.max_new_tokens,
        max_prompt_tokens=training.max_prompt_tokens,
        problems_per_micro_batch=training.problems_per_micro_batch,
        gradient_checkpointing=training.gradient_checkpointing,
        dtype=training.dtype,
        device=config.device,
    )


def _part(model: type[T], settings: T) -> T:
    """The fields of `settings` that a class it extends has: a job is not run again for the others."""
    return model.model_validate(settings.model_dump(by_alias=True, include=set(model.model_fields)))
