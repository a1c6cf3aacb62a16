"""`nested-reft page`: one page of the report from the tidy tables."""

from __future__ import annotations

import argparse

from nested_reft.config.experiment import config_of_results
from nested_reft.report.registry import PAGES


def run(options: argparse.Namespace) -> None:
    """Write it as HTML."""
    PAGES[options.name].load()(options.root, config_of_results(options.root))
