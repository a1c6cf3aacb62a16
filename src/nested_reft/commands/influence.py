"""`nested-reft influence`: ablation influence of each layer of one model."""

from __future__ import annotations

import argparse

import torch

from nested_reft.config.influence import InfluenceSettings
from nested_reft.config.records import write_record
from nested_reft.config.strict import parse
from nested_reft.data.records import read_problems
from nested_reft.evaluation.ablation import measure_influence
from nested_reft.rollouts.policy import load_policy, select_device
from nested_reft.runtime.progress import Progress


def run(options: argparse.Namespace) -> None:
    """Write the record, and log it."""
    settings = parse(InfluenceSettings, options.settings, "--settings")
    torch.set_num_threads(options.threads)
    problems = read_problems(options.problems)
    policy = load_policy(options.policy, device=select_device(settings.device), prompt=settings.prompt)
    record = measure_influence(settings, policy, problems)
    write_record(options.output, record)
    progress = Progress(f"influence {settings.size} {settings.stage}")
    for layer, value in enumerate(record.influence):
        progress.log(f"layer {layer}: {value:.4g} nats per token")
