"""`nested-reft summary`: the verdicts, and where the results are."""

from __future__ import annotations

import argparse

from nested_reft.report.claims.summary import summary
from nested_reft.report.tidy import read_table


def run(options: argparse.Namespace) -> None:
    """Print them."""
    print(summary(read_table(options.root, "claims"), options.root))
