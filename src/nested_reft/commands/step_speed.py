"""`nested-reft step-speed`: speed of a training step of one size at one skip setting."""

from __future__ import annotations

import argparse

import torch

from nested_reft.config.records.record import write_record
from nested_reft.config.records.step_speed import StepPair
from nested_reft.config.strict import parse
from nested_reft.config.throughput import StepSpeedSettings
from nested_reft.data.records import read_problems
from nested_reft.rollouts.policy import load_policy, select_device
from nested_reft.rollouts.samplers import sampler_factory
from nested_reft.runtime.progress import Progress
from nested_reft.training.speed import measure_steps
from nested_reft.training.world import init_distributed


def run(options: argparse.Namespace) -> None:
    """Write the record of all pairs, and log each."""
    settings = parse(StepSpeedSettings, options.settings, "--settings")
    torch.set_num_threads(options.threads)
    training = settings.training
    make_sampler = sampler_factory(
        settings.vllm, options.policy, training.dtype, training.max_prompt_tokens + training.max_new_tokens
    )
    progress = Progress(f"step-speed {settings.size} skip{settings.skip}")

    def report(pair: StepPair) -> None:
        nested, full = pair.nested.total, pair.baseline.total
        progress.log(f"{nested:.3f} s, full model {full:.3f} s: {full / nested:.3f}")

    with init_distributed(settings.device) as world:
        with world.raise_on_all_ranks():
            problems = read_problems(options.problems)
            # As in training: only frozen weights can have the dtype of the matrix products.
            dtype = training.dtype if training.lora else "float32"
            policy = load_policy(
                options.policy, device=select_device(settings.device), dtype=dtype, prompt=settings.prompt
            )
        heard = report if world.is_main else lambda pair: None
        record = measure_steps(settings, policy, problems, heard, world, make_sampler)
        if world.is_main:
            write_record(options.output, record)
