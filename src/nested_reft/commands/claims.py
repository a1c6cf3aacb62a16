"""`nested-reft claims`: the claims and their verdicts, from the tidy tables."""

from __future__ import annotations

import argparse

from nested_reft.config.experiment import Config
from nested_reft.config.strict import parse
from nested_reft.report.claims.tables import write_claims


def run(options: argparse.Namespace) -> None:
    """Write the claims table, the verdicts and the cells that they are based on."""
    config = parse(Config, options.settings, "--settings")
    write_claims(options.root, config, options.target_folder, options.options)
