"""`nested-reft lock`: record in the lock file what was fetched and is not in it yet."""

from __future__ import annotations

import argparse

from nested_reft.data.provenance import lock_sources


def run(options: argparse.Namespace) -> None:
    """Add the new entries, and print them."""
    added = lock_sources(options.provenance, options.lock)
    for entry in added:
        print(f"lock  {entry}")
    print(f"lock  {len(added)} new entries in {options.lock}", flush=True)
