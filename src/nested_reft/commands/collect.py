"""`nested-reft collect`: tidy tables from all result files."""

from __future__ import annotations

import argparse

from nested_reft.config.experiment import config_of_results
from nested_reft.report.collect.collect import collect


def run(options: argparse.Namespace) -> None:
    """Write the tidy tables."""
    collect(options.root, config_of_results(options.root))
