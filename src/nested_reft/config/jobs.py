"""What each rule passes to its sub-command: only what the job's result depends on, as canonical JSON.

Snakemake compares this text with that of the last run, so a changed setting reruns the jobs that it affects and no
others; its hash names the run's checkpoints.
"""

from __future__ import annotations

from typing import Any, TypeVar

from nested_reft.config.ablation import InfluenceSettings
from nested_reft.config.evaluation import EvaluateSettings, EvaluationMeasurement
from nested_reft.config.experiment import (
    Config,
    benchmark_batches,
    layer_choices,
    measured_models,
    nested_skips,
    problem_sets,
    stages,
    vllm_of,
)
from nested_reft.config.gradients import (
    CompletionGradientSettings,
    CompletionMeasurement,
    GradientBatches,
    GradientMeasurement,
    GradientSettings,
    OnPolicySettings,
)
from nested_reft.config.method import read_ablation
from nested_reft.config.nestability import NestabilityMeasurement, NestabilitySettings
from nested_reft.config.resources import JobKind
from nested_reft.config.run import BASELINE_CORRECTION, PRETRAINED, WARMED_UP, WITHOUT_LAYER_DROP, Run, Stage
from nested_reft.config.run_table import all_runs
from nested_reft.config.sampling import Sampling
from nested_reft.config.sources import CheckSettings, DataSettings, FetchedModel, ModelSettings, Role
from nested_reft.config.strict import Strict
from nested_reft.config.throughput import StepSpeedSettings, ThroughputSettings
from nested_reft.config.training import Adaptation, Alarms, TrainSettings
from nested_reft.config.warmup import WarmupSettings, WarmupTraining
from nested_reft.core.layer_selection import SELECTIONS

T = TypeVar("T", bound=Strict)


def data_settings(config: Config, role: Role, name: str) -> DataSettings:
    return DataSettings(name=name, role=role, problems=problem_sets(config)[role][name])


def check_settings(config: Config) -> CheckSettings:
    models = {size: model for size, model in config.sizes.items() if isinstance(model, FetchedModel)}
    return CheckSettings(shapes={size: model.shape for size, model in models.items() if model.shape is not None})


def model_settings(config: Config, size: str) -> ModelSettings:
    model = config.sizes[size]
    scratch = model.source == "scratch"
    return ModelSettings(
        size=size,
        model=model,
        pretraining=config.pretraining if scratch else None,
        prompt=config.prompt.model_copy(update={"template": None, "end_tokens": ()}),
        device=config.device if scratch else "cpu",
    )


def warmup_settings(config: Config, size: str, stage: str = WARMED_UP) -> WarmupSettings:
    assert config.warmup is not None, "there is a rule only with a warm-up"
    warmup = _part(WarmupTraining, config.warmup)
    return WarmupSettings(
        **_model_job(config, size),
        warmup=warmup.model_copy(update={"layer_drop": 0.0}) if stage == WITHOUT_LAYER_DROP else warmup,
        border=config.training.border,
        gradient_checkpointing=config.training.gradient_checkpointing,
    )


def train_settings(config: Config, run: Run) -> TrainSettings:
    choice, adapts = config.layer_choice, SELECTIONS[run.strategy].adapts
    return TrainSettings(
        run=run,
        training=config.training,
        params=config.corrections[run.correction].params,
        prompt=config.prompt,
        reward=config.reward,
        device=config.device,
        vllm=vllm_of(config),
        adapt=Adaptation(target_ess=choice.target_ess, ess_batches=choice.ess_batches) if adapts else None,
    )


def evaluate_settings(
    config: Config, size: str, run: Run | None, benchmarks: tuple[str, ...], stage: Stage = PRETRAINED
) -> EvaluateSettings:
    vllm = vllm_of(config)
    starts = run is None and stage == stages(config)[-1]
    return EvaluateSettings(
        size=size,
        run=run,
        stage=stage,
        benchmarks=benchmarks,
        evaluation=_part(EvaluationMeasurement, config.evaluation),
        temperatures=config.evaluation.start_temperatures if starts else (),
        prompt=config.prompt,
        reward=config.reward,
        dtype=config.training.dtype,
        device=config.device,
        vllm=vllm and vllm.model_copy(update={"sleep": False}),  # there are no updates
    )


def throughput_settings(config: Config, size: str, skip: int) -> ThroughputSettings:
    # Every completion has the same length.
    equal = {
        "prompt": config.prompt.model_copy(update={"end_tokens": ()}),
        "max_new_tokens": config.throughput.new_tokens,
    }
    return ThroughputSettings(
        **_model_job(config, size) | equal,
        skip=skip,
        border=config.training.border,
        throughput=config.throughput,
        sampling=_part(Sampling, config.training),
        rollout_precision=config.training.rollout_precision,
    )


def step_speed_settings(config: Config, size: str, skip: int) -> StepSpeedSettings:
    # What one step does not depend on is the same for all: changing it does not rerun the job.
    fixed = {
        "steps": 1,
        "learning_rate": 1.0,
        "warmup_steps": 0,
        "checkpoint_every": 1,
        "checkpoint_minutes": None,
        "alarms": Alarms(),
    }
    length = config.step_speed.new_tokens or config.training.max_new_tokens
    return StepSpeedSettings(
        size=size,
        skip=skip,
        # All corrections cost the same: they differ by one product per token.
        correction=BASELINE_CORRECTION,
        params=config.corrections[BASELINE_CORRECTION].params,
        step_speed=config.step_speed,
        training=config.training.model_copy(update={**fixed, "max_new_tokens": length}),
        prompt=config.prompt,
        device=config.device,
        vllm=vllm_of(config),
    )


def on_policy_settings(config: Config, size: str) -> OnPolicySettings:
    return OnPolicySettings(
        **_model_job(config, size),
        gradients=_part(GradientBatches, config.gradients),
        sampling=_part(Sampling, config.training),
        problems_per_micro_batch=config.training.problems_per_micro_batch,
        gradient_checkpointing=config.training.gradient_checkpointing,
        reward=config.reward,
    )


def gradient_settings(config: Config, size: str, skip: int) -> GradientSettings:
    training = config.training
    return GradientSettings(
        **dict(on_policy_settings(config, size)) | {"gradients": _part(GradientMeasurement, config.gradients)},
        skip=skip,
        strategy=config.layer_choice.strategies[0],
        border=training.border,
        update_clip_low=training.update_clip_low,
        update_clip_high=training.update_clip_high,
    )


def completion_gradient_settings(config: Config, size: str, skip: int) -> CompletionGradientSettings:
    training, gradients = config.training, config.gradients
    assert gradients.by_completion is not None, "there is a rule only with it"
    return CompletionGradientSettings(
        **_model_job(config, size),
        skip=skip,
        completions=CompletionMeasurement(
            **dict(gradients.by_completion),
            corrections=gradients.corrections,
            coordinates=gradients.coordinates,
            seed=gradients.seed,
        ),
        strategy=config.layer_choice.strategies[0],
        border=training.border,
        update_clip_low=training.update_clip_low,
        update_clip_high=training.update_clip_high,
        temperature=training.temperature,
        gradient_checkpointing=training.gradient_checkpointing,
        reward=config.reward,
    )


def nestability_settings(
    config: Config, size: str, stage: str, skip: int, strategy: str, border: int
) -> NestabilitySettings:
    assert config.nestability is not None, "there is a rule only with it"
    return NestabilitySettings(
        **_model_job(config, size),
        stage=stage,
        skip=skip,
        strategy=strategy,
        border=border,
        nestability=_part(NestabilityMeasurement, config.nestability),
        sampling=_part(Sampling, config.training),
        rollout_precision=config.training.rollout_precision,
        reward=config.reward,
    )


def influence_settings(config: Config, size: str, stage: str) -> InfluenceSettings:
    return InfluenceSettings(**_model_job(config, size), stage=stage, problems=config.layer_choice.influence_problems)


def settings_by_kind(config: Config, size: str) -> dict[JobKind, list[Strict]]:
    """The settings of every job of one size, by kind; kinds without jobs are left out."""
    nested, models, parts = nested_skips(config), measured_models(config), config.parts
    runs = [run for run in all_runs(config) if run.size == size]
    policies: list[tuple[Run | None, Stage]] = [(None, stage) for stage in stages(config) if "training" in parts]
    policies += [(run, PRETRAINED) for run in runs]
    found: dict[JobKind, list[Strict]] = {
        "model": [model_settings(config, size)],
        "warmup": [warmup_settings(config, size, stage) for stage in warmups(config)],
        "train": [train_settings(config, run) for run in runs],
        "evaluate": [
            evaluate_settings(config, size, run, batch, stage)
            for run, stage in policies
            for batch in benchmark_batches(config)
        ],
        "throughput": [throughput_settings(config, size, skip) for skip in (0, *nested) if "throughput" in parts],
        "step_speed": [step_speed_settings(config, size, skip) for skip in nested if "step_speed" in parts],
        "gradients": [
            on_policy_settings(config, size),
            *(gradient_settings(config, size, skip) for skip in nested),
        ]
        if "gradients" in parts
        else [],
        "completion_gradients": [
            completion_gradient_settings(config, size, skip)
            for skip in nested
            if "gradients" in parts and config.gradients.by_completion
        ],
        "influence": [influence_settings(config, size, stage) for stage in influence_stages(config)],
        "nestability": [
            nestability_settings(config, size, stage, *choice) for stage in models for choice in layer_choices(config)
        ],
    }
    return {kind: settings for kind, settings in found.items() if settings}


def warmups(config: Config) -> tuple[str, ...]:
    """The stages that a warm-up makes: with the settings, and without layer drop if that is measured."""
    return tuple(dict.fromkeys((*stages(config)[1:], *measured_models(config)[1:])))


def influence_stages(config: Config) -> list[str]:
    """The models whose ablation influence is measured: for runs and gradients, and for the nestability."""
    strategies = config.layer_choice.strategies
    read = {"training": strategies, "gradients": strategies[:1]}
    chosen = any(part in config.parts and read_ablation(names) for part, names in read.items())
    found = stages(config)[-1:] if chosen else ()
    measured = config.nestability is not None and read_ablation(config.nestability.strategies)
    return list(dict.fromkeys((*found, *(measured_models(config) if measured else ()))))


def _model_job(config: Config, size: str) -> dict[str, Any]:
    """The fields of `ModelJob`."""
    training = config.training
    return {
        "size": size,
        "prompt": config.prompt,
        "max_new_tokens": training.max_new_tokens,
        "max_prompt_tokens": training.max_prompt_tokens,
        "dtype": training.dtype,
        "device": config.device,
    }


def _part(model: type[T], settings: T) -> T:
    """The fields of `settings` that its base class `model` has: changing the others does not rerun the job."""
    return model.model_validate(settings.model_dump(by_alias=True, include=set(model.model_fields)))
