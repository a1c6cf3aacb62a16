"""`nested-reft exact`: exact bias and variance of every estimator on a policy small enough to enumerate."""

from __future__ import annotations

import argparse

from nested_reft.config.records.exact import ExactRecord
from nested_reft.config.records.record import write_record
from nested_reft.evaluation.exact import exact_rows


def run(options: argparse.Namespace) -> None:
    """Write the rows of the table."""
    write_record(options.output, ExactRecord(rows=exact_rows()))
