"""`nested-reft gradients`: bias and variance of the gradient estimates of one size at one skip setting."""

from __future__ import annotations

import argparse

from nested_reft.commands.loading import batch_report, load_job, read_influence
from nested_reft.config.gradients import GradientSettings
from nested_reft.config.records.record import write_record
from nested_reft.evaluation.gradients import load_on_policy, measure_gradients


def run(options: argparse.Namespace) -> None:
    """Write the record of all batches."""
    settings, policy, problems = load_job(GradientSettings, options)
    influence = read_influence((settings.strategy,), options, policy)
    on_policy = load_on_policy(options.on_policy, settings)
    report = batch_report(f"gradients {settings.size} skip{settings.skip}", settings.gradients.batches)
    record = measure_gradients(settings, policy, problems, on_policy, report, influence)
    write_record(options.output, record, indent=None)
