"""`nested-reft nestability`: how far nested rollouts of one model are from it, at one skip setting."""

from __future__ import annotations

import argparse

from nested_reft.commands.loading import batch_report, load_job, read_influence
from nested_reft.config.nestability import NestabilitySettings
from nested_reft.config.records.record import write_record
from nested_reft.evaluation.nestability import measure_nestability


def run(options: argparse.Namespace) -> None:
    """Write the record."""
    settings, policy, problems = load_job(NestabilitySettings, options)
    measured = settings.nestability
    influence = read_influence((settings.strategy,), options, policy) if settings.skip else None
    report = batch_report(
        f"nestability {settings.size} {settings.stage} skip{settings.skip} {settings.strategy}",
        measured.batches * (1 + len(measured.precisions)),
    )
    write_record(options.output, measure_nestability(settings, policy, problems, report, influence))
