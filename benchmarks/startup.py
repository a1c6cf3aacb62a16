"""The wait before anything is computed: the command line, a training job's imports, and the dry runs.

    python benchmarks/startup.py [--quick] [--threads N]

Each is a separate process, timed from start to end, once to warm the file cache and then `--runs` times; medians.
`*_processor` is the processor time of it and its children, which other programs on the machine do not lengthen. The dry
runs have no results yet, so all jobs would run.

Keys, in seconds: `help_s` is `nested-reft --help`; `imports_s` a Python that imports what `nested-reft train` does,
with the model class that loading the policy imports; `job_s` a job that ends when it has read its settings, and
`warm_job_s` the same job forked from a warm process (`runtime/warm.py`; its processor time is the client's only);
`dry_run_s` and `paper_dry_run_s` are `snakemake -n` of the default and the paper's experiment.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import ROOT, Spread, parse_options, print_result

from nested_reft.runtime import warm

IMPORTS = """
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2ForCausalLM
import nested_reft.cli, nested_reft.commands.train
"""

# Refused for its settings, after the imports.
JOB = """
import nested_reft.cli
nested_reft.cli.main("throughput --settings {} --policy a --problems b --output c".split())
"""


def run(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """Wall-clock and processor seconds of a command; RuntimeError with the end of its output if it fails."""
    started, before = time.perf_counter(), os.times()
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    elapsed, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout[-2000:]}")
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return elapsed, processor


def copy_pipeline(folder: Path) -> None:
    """What a dry run reads, without results."""
    for name in ("workflow", "config", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))


def add_options(parser: argparse.ArgumentParser) -> None:
    """This benchmark's own options."""
    parser.add_argument("--runs", type=int, metavar="N", help="timed runs of each command (default 7, quick 1)")


def main() -> None:
    """Time every command, and print the JSON line."""
    options = parse_options(__doc__, add_options)
    runs = options.runs or (1 if options.quick else 7)
    snakemake = [sys.executable, "-m", "snakemake", "-n", "--quiet", "all"]
    commands = {
        # what the console script `nested-reft` runs
        "help_s": [sys.executable, "-c", "from nested_reft.cli import main; main(['--help'])"],
        "imports_s": [sys.executable, "-c", IMPORTS],
        "job_s": [sys.executable, "-c", JOB],
        "warm_job_s": [sys.executable, "-c", JOB],
        "dry_run_s": snakemake,
        "paper_dry_run_s": [*snakemake, "--configfile", "config/paper.yaml"],
    }
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_pipeline(folder)
        os.environ[warm.VARIABLE] = warm.OFF
        for key, command in commands.items():
            if key == "warm_job_s":
                os.environ[warm.VARIABLE] = warm.start(folder / "warm.log", options.threads, warm.COMPUTING)
                run(command, folder)  # waits for the imports
            if not options.quick:
                run(command, folder)
            clock, processor = (
                Spread.of(times) for times in zip(*(run(command, folder) for _ in range(runs)), strict=True)
            )
            result |= {key: clock.median, f"{key}_spread": clock, f"{key}_processor": processor.median}
            print(f"{key}: {clock} s, processor {processor} s, {runs} runs", flush=True)
    print_result("startup", options, {**result, "runs": runs})


if __name__ == "__main__":
    main()
