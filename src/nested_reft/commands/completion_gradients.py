"""`nested-reft completion-gradients`: bias and variance problem by problem, of one size at one skip setting."""

from __future__ import annotations

import argparse

from nested_reft.commands.loading import batch_report, load_job, read_influence
from nested_reft.config.gradients import CompletionGradientSettings
from nested_reft.config.records.record import write_record
from nested_reft.evaluation.completion_gradients import measure_completion_gradients


def run(options: argparse.Namespace) -> None:
    """Write the record of all problems."""
    settings, policy, problems = load_job(CompletionGradientSettings, options)
    influence = read_influence((settings.strategy,), options, policy)
    report = batch_report(f"completion-gradients {settings.size} skip{settings.skip}", settings.completions.problems)
    write_record(options.output, measure_completion_gradients(settings, policy, problems, report, influence))
