"""`nested-reft throughput`: rollout speed of one size at one skip setting."""

from __future__ import annotations

import argparse

from nested_reft.commands.loading import load_job
from nested_reft.config.records.record import write_record
from nested_reft.config.throughput import ThroughputSettings
from nested_reft.evaluation.throughput import measure_throughput
from nested_reft.runtime.progress import Progress


def run(options: argparse.Namespace) -> None:
    """Write the record of all pairs, and log each."""
    settings, policy, problems = load_job(ThroughputSettings, options, cast_weights=True)
    record = measure_throughput(settings, policy, problems)
    write_record(options.output, record)
    progress = Progress(f"throughput {settings.size} skip{settings.skip}")
    for pair in record.pairs:
        nested, full = pair.nested_tokens_per_s, pair.baseline_tokens_per_s
        progress.log(f"{nested:,.0f} tokens/s, full model {full:,.0f}: {nested / full:.3f}")
