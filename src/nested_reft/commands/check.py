"""`nested-reft check`: verify the sources of an experiment; training starts when the file that this writes exists."""

from __future__ import annotations

import argparse

from nested_reft.tasks.provenance import check_sources


def run(options: argparse.Namespace) -> None:
    """Verify all fetched data sets and models against the lock file, and write a summary of them."""
    check_sources(options.provenance, options.lock, options.output)
