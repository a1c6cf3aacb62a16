"""`nested-reft throughput`: rollout speed of one size at one skip setting."""

from __future__ import annotations

import argparse

import torch

from nested_reft.config.records import write_record
from nested_reft.config.strict import parse
from nested_reft.config.throughput import ThroughputSettings
from nested_reft.data.records import read_problems
from nested_reft.evaluation.throughput import measure_throughput
from nested_reft.rollouts.policy import load_policy, select_device
from nested_reft.runtime.progress import Progress


def run(options: argparse.Namespace) -> None:
    """Write the record of all pairs, and log each."""
    settings = parse(ThroughputSettings, options.settings, "--settings")
    torch.set_num_threads(options.threads)
    problems = read_problems(options.problems)
    policy = load_policy(
        options.policy, device=select_device(settings.device), dtype=settings.dtype, prompt=settings.prompt
    )
    record = measure_throughput(settings, policy, problems)
    write_record(options.output, record)
    progress = Progress(f"throughput {settings.size} skip{settings.skip}")
    for pair in record.pairs:
        nested, full = pair.nested_tokens_per_s, pair.baseline_tokens_per_s
        progress.log(f"{nested:,.0f} tokens/s, full model {full:,.0f}: {nested / full:.3f}")
