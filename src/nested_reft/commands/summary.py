"""`nested-reft summary`: the verdicts, where the results are, and how they compare with those of a reference run."""

from __future__ import annotations

import argparse

from nested_reft.report.claims.summary import summary
from nested_reft.report.compare import compare_folders
from nested_reft.report.tidy import read_table


def run(options: argparse.Namespace) -> None:
    """Print them."""
    print(summary(read_table(options.root, "claims"), options.root))
    if options.reference:
        found = compare_folders(options.reference, options.root).line()
        command = f"nested-reft compare --root {options.root} --reference {options.reference}"
        print(f"Against the reference run: {found} ({command})")
