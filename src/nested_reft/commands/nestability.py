"""`nested-reft nestability`: how far nested rollouts of one model are from it, at one skip setting."""

from __future__ import annotations

import argparse

import torch

from nested_reft.config.nestability import NestabilitySettings
from nested_reft.config.records import write_record
from nested_reft.config.strict import parse
from nested_reft.core.layers import decoder_layers
from nested_reft.data.records import read_problems
from nested_reft.evaluation.nestability import measure_nestability
from nested_reft.rollouts.policy import load_policy, select_device
from nested_reft.rollouts.stored_influence import load_influence
from nested_reft.runtime.progress import Progress


def run(options: argparse.Namespace) -> None:
    """Write the record."""
    settings = parse(NestabilitySettings, options.settings, "--settings")
    torch.set_num_threads(options.threads)
    problems = read_problems(options.problems)
    policy = load_policy(options.policy, device=select_device(settings.device), prompt=settings.prompt)
    progress = Progress(f"nestability {settings.size} {settings.stage} skip{settings.skip}")
    measured, num_layers = settings.nestability, len(decoder_layers(policy.model))
    read = [load_influence(name, options.influence, num_layers) for name in measured.strategies]
    influence = next((values for values in read if values is not None), None)
    record = measure_nestability(
        settings, policy, problems, lambda done: progress.step(f"batch {done}/{measured.batches}"), influence
    )
    write_record(options.output, record)
