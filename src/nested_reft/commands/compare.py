"""`nested-reft compare`: what a run found against what a reference run found."""

from __future__ import annotations

import argparse

from nested_reft.report.compare import DifferenceError, compare_folders


def run(options: argparse.Namespace) -> None:
    """Print all differences; DifferenceError, after all of them, if there are any."""
    found = compare_folders(options.reference, options.root)
    print(found.text())
    if found.differs:
        raise DifferenceError(f"{options.root} differs from {options.reference}")
    print(f"{options.root} agrees with {options.reference}")
