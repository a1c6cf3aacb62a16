"""`nested-reft step-speed`: speed of a training step of one size at one skip setting."""

from __future__ import annotations

import argparse

import torch

from nested_reft.commands.loading import load_trained
from nested_reft.config.records.record import write_record
from nested_reft.config.records.step_speed import StepPair
from nested_reft.config.strict import parse
from nested_reft.config.throughput import StepSpeedSettings
from nested_reft.runtime.progress import Progress
from nested_reft.training.speed import measure_steps
from nested_reft.training.world import init_distributed


def run(options: argparse.Namespace) -> None:
    """Write the record of all pairs, and log each."""
    settings = parse(StepSpeedSettings, options.settings, "--settings")
    torch.set_num_threads(options.threads)
    progress = Progress(f"step-speed {settings.size} skip{settings.skip}")

    def report(pair: StepPair) -> None:
        nested, full = pair.nested.total, pair.baseline.total
        progress.log(f"{nested:.3f} s, full model {full:.3f} s: {full / nested:.3f}")

    with init_distributed(settings.device) as world:
        with world.raise_on_all_ranks():
            policy, problems, make_sampler = load_trained(settings, options)
        heard = report if world.is_main else lambda pair: None
        record = measure_steps(settings, policy, problems, heard, world, make_sampler)
        if world.is_main:
            write_record(options.output, record)
