"""`nested-reft tables`: the tables for people, from the tidy ones."""

from __future__ import annotations

import argparse

from nested_reft.config.experiment import config_of_results
from nested_reft.report.tables.write import write_tables


def run(options: argparse.Namespace) -> None:
    """Write all of them, as CSV, Markdown, LaTeX and HTML."""
    write_tables(options.root, config_of_results(options.root))
