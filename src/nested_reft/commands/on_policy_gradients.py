"""`nested-reft on-policy-gradients`: the gradient estimates of one size that those of every skip are compared with."""

from __future__ import annotations

import argparse

import torch
from safetensors.torch import save_file

from nested_reft.config.gradients import OnPolicySettings
from nested_reft.config.strict import parse
from nested_reft.data.records import read_problems
from nested_reft.evaluation.gradients import measure_on_policy
from nested_reft.rollouts.policy import load_policy, select_device
from nested_reft.runtime.files import check_space
from nested_reft.runtime.progress import Progress


def run(options: argparse.Namespace) -> None:
    """Write both sets of estimates."""
    settings = parse(OnPolicySettings, options.settings, "--settings")
    torch.set_num_threads(options.threads)
    problems = read_problems(options.problems)
    policy = load_policy(options.policy, device=select_device(settings.device), prompt=settings.prompt)
    progress, batches = Progress(f"on-policy-gradients {settings.size}"), settings.gradients.batches
    sets = measure_on_policy(settings, policy, problems, lambda done: progress.step(f"batch {done}/{batches}"))
    check_space(options.output.parent, sum(tensor.nbytes for tensor in sets.values()), "the gradient estimates")
    save_file(sets, options.output)
