"""`nested-reft exact`: exact bias and variance of every estimator on a policy small enough to enumerate."""

from __future__ import annotations

import argparse

from nested_reft.evaluation.exact import exact_rows
from nested_reft.runtime.files import write_json


def run(options: argparse.Namespace) -> None:
    """Write the rows of the table."""
    write_json(options.output, {"rows": exact_rows()})
