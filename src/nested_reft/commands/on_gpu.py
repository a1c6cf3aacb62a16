"""`nested-reft on-gpu`: another command, on GPUs that no other job of this machine uses."""

from __future__ import annotations

import argparse

from nested_reft.runtime.gpus import run_on_gpus


def run(options: argparse.Namespace) -> None:
    """Replace this process by the command."""
    run_on_gpus(options.count, options.job, each=options.each)
