"""`nested-reft figure`: one figure from the tidy tables."""

from __future__ import annotations

import argparse

from nested_reft.config.experiment import config_of_results
from nested_reft.report.figures.draw import draw


def run(options: argparse.Namespace) -> None:
    """Draw it, as PNG, SVG and PDF."""
    draw(options.name, options.root, config_of_results(options.root))
