"""`nested-reft claims`: the claims and their verdicts, from the tidy tables."""

from __future__ import annotations

import argparse

from nested_reft.config.experiment import config_of_results
from nested_reft.report.claims.tables import write_claims


def run(options: argparse.Namespace) -> None:
    """Write the claims table, the verdicts and the cells that they are based on."""
    config = config_of_results(options.root)
    write_claims(options.root, config, options.target_folder, options.options)
