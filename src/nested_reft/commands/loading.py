"""How sub-commands load what they train or measure; it is no sub-command itself."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from nested_reft.config.sampling import ModelJob
from nested_reft.config.strict import parse
from nested_reft.core.layers import decoder_layers
from nested_reft.data.records import Problem, read_problems
from nested_reft.rollouts.policy import Policy, load_policy, select_device
from nested_reft.rollouts.samplers import Sampler, sampler_factory
from nested_reft.rollouts.stored_influence import load_influence
from nested_reft.runtime.progress import Progress

if TYPE_CHECKING:  # so that a measurement does not depend on the settings of training
    from nested_reft.config.throughput import StepSpeedSettings
    from nested_reft.config.training import TrainSettings

T = TypeVar("T", bound=ModelJob)


def load_job(
    settings_class: type[T], options: argparse.Namespace, cast_weights: bool = False
) -> tuple[T, Policy, list[Problem]]:
    """The settings, model and problems of a sub-command.

    Weights are float32 and products in the dtype of the settings, or with `cast_weights` the weights have it too.
    """
    settings = parse(settings_class, options.settings, "--settings")
    torch.set_num_threads(options.threads)
    problems = read_problems(options.problems)
    dtype = settings.dtype if cast_weights else "float32"
    policy = load_policy(options.policy, device=select_device(settings.device), dtype=dtype, prompt=settings.prompt)
    return settings, policy, problems


def load_trained(
    settings: TrainSettings | StepSpeedSettings, options: argparse.Namespace
) -> tuple[Policy, list[Problem], Callable[[Policy], Sampler]]:
    """The model and problems of a training, and what makes its sampler."""
    training = settings.training
    make_sampler = sampler_factory(settings.vllm, options.policy, training, training.dtype)
    problems = read_problems(options.problems)
    # Frozen weights can have the dtype of the matrix products; trained ones cannot.
    dtype = training.dtype if training.lora else "float32"
    policy = load_policy(options.policy, device=select_device(settings.device), dtype=dtype, prompt=settings.prompt)
    return policy, problems, make_sampler


def read_influence(strategies: Sequence[str], options: argparse.Namespace, policy: Policy) -> Tensor | None:
    """The ablation influence (L,) that one of the strategies reads, or None."""
    num_layers = len(decoder_layers(policy.model))
    read = [load_influence(name, options.influence, num_layers) for name in strategies]
    return next((values for values in read if values is not None), None)


def batch_report(name: str, batches: int) -> Callable[[int], None]:
    """Logs how many batches are done."""
    progress = Progress(name)
    return lambda done: progress.log(f"batch {done}/{batches}")
