"""`nested-reft check`: verify the sources of an experiment; training starts when the file that this writes exists."""

from __future__ import annotations

import argparse

from nested_reft.config.sources import CheckSettings
from nested_reft.config.strict import parse
from nested_reft.data.provenance import check_sources


def run(options: argparse.Namespace) -> None:
    """Verify all fetched data sets and models against the lock file, and write a summary of them."""
    settings = parse(CheckSettings, options.settings, "--settings")
    check_sources(options.provenance, settings.shapes, options.lock, options.output)
