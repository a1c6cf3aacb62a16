"""`nested-reft timings`: where the time of an experiment went."""

from __future__ import annotations

import argparse

from nested_reft.report.timings import job_seconds, timings_table


def run(options: argparse.Namespace) -> None:
    """Print the table, as Markdown."""
    table = timings_table(job_seconds(options.root))
    print(table.to_markdown(index=False, disable_numparse=True, colalign=["left"] + ["right"] * (table.shape[1] - 1)))
