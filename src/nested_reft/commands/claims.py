"""`nested-reft claims`: the claims and their verdicts, from the tidy tables."""

from __future__ import annotations

import argparse

from nested_reft.config.experiment import Config
from nested_reft.config.strict import parse
from nested_reft.report.claims.tables import write_claims


def run(options: argparse.Namespace) -> None:
    """Write the claims table, the verdicts and the cells that they are based on."""
    write_claims(options.root, parse(Config, options.settings, "--settings"), options.config_file)
