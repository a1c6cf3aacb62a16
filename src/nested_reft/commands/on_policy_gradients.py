"""`nested-reft on-policy-gradients`: the gradient estimates of one size that those of every skip are compared with."""

from __future__ import annotations

import argparse

from safetensors.torch import save_file

from nested_reft.commands.loading import batch_report, load_job
from nested_reft.config.gradients import OnPolicySettings
from nested_reft.evaluation.gradients import measure_on_policy
from nested_reft.runtime.files import check_space


def run(options: argparse.Namespace) -> None:
    """Write both sets of estimates."""
    settings, policy, problems = load_job(OnPolicySettings, options)
    report = batch_report(f"on-policy-gradients {settings.size}", settings.gradients.batches)
    sets = measure_on_policy(settings, policy, problems, report)
    check_space(options.output.parent, sum(tensor.nbytes for tensor in sets.values()), "the gradient estimates")
    save_file(sets, options.output)
