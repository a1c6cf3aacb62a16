"""`nested-reft page`: one page of the report from the tidy tables."""

from __future__ import annotations

import argparse

from nested_reft.config.experiment import Config
from nested_reft.config.strict import parse
from nested_reft.report.registry import PAGES


def run(options: argparse.Namespace) -> None:
    """Write it as HTML."""
    PAGES[options.name].load()(options.root, parse(Config, options.settings, "--settings"))
