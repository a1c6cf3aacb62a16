"""`nested-reft figure`: one figure from the tidy tables."""

from __future__ import annotations

import argparse

from nested_reft.config.experiment import Config
from nested_reft.config.strict import parse
from nested_reft.report.figures.draw import draw


def run(options: argparse.Namespace) -> None:
    """Draw it, as PNG, SVG and PDF."""
    draw(options.name, options.root, parse(Config, options.settings, "--settings"))
