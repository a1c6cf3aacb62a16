"""`nested-reft influence`: ablation influence of each layer of one model."""

from __future__ import annotations

import argparse

from nested_reft.commands.loading import load_job
from nested_reft.config.ablation import InfluenceSettings
from nested_reft.config.records.record import write_record
from nested_reft.evaluation.ablation import measure_influence
from nested_reft.runtime.progress import Progress


def run(options: argparse.Namespace) -> None:
    """Write the record, and log it."""
    settings, policy, problems = load_job(InfluenceSettings, options)
    record = measure_influence(settings, policy, problems)
    write_record(options.output, record)
    progress = Progress(f"influence {settings.size} {settings.stage}")
    for layer, value in enumerate(record.influence):
        progress.log(f"layer {layer}: {value:.4g} nats per token")
