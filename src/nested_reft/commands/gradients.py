"""`nested-reft gradients`: bias and variance of the gradient estimates of one size at one skip setting."""

from __future__ import annotations

import argparse

import torch

from nested_reft.config.gradients import GradientSettings
from nested_reft.config.records import write_record
from nested_reft.config.strict import parse
from nested_reft.core.layers import decoder_layers
from nested_reft.data.records import read_problems
from nested_reft.evaluation.gradients import load_on_policy, measure_gradients
from nested_reft.rollouts.policy import load_policy, select_device
from nested_reft.rollouts.stored_influence import load_influence
from nested_reft.runtime.progress import Progress


def run(options: argparse.Namespace) -> None:
    """Write the record of all batches."""
    settings = parse(GradientSettings, options.settings, "--settings")
    torch.set_num_threads(options.threads)
    problems = read_problems(options.problems)
    policy = load_policy(options.policy, device=select_device(settings.device), prompt=settings.prompt)
    progress = Progress(f"gradients {settings.size} skip{settings.skip}")
    batches = settings.gradients.batches
    influence = load_influence(settings.strategy, options.influence, len(decoder_layers(policy.model)))
    on_policy = load_on_policy(options.on_policy, settings)
    record = measure_gradients(
        settings, policy, problems, on_policy, lambda done: progress.step(f"batch {done}/{batches}"), influence
    )
    write_record(options.output, record, indent=None)
