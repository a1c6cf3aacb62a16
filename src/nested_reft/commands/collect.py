"""`nested-reft collect`: tidy tables from all result files."""

from __future__ import annotations

import argparse

from nested_reft.config.experiment import Config
from nested_reft.config.strict import parse
from nested_reft.report.collect.collect import collect


def run(options: argparse.Namespace) -> None:
    """Write the tidy tables."""
    collect(options.root, parse(Config, options.settings, "--settings"))
