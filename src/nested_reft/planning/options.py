"""The options of `nested-reft plan`, and what it assumes without them. Imports little, so that `--help` is quick."""

from __future__ import annotations

import argparse
from pathlib import Path

# Assumed unless an option says otherwise. cuda: 40 % of the 989 TFLOP/s in bfloat16 and 60 % of the 3,350 GB/s that an
# H100 SXM has on its data sheet, and 30 small operations per layer of 8 microseconds each. cpu: what one thread reached
# in docs/benchmarks.md, whose rates include launching operations; jobs are forked from a warm process.
DEFAULTS = {
    "cuda": {"teraflops": 400.0, "gigabytes_per_s": 2000.0, "layer_us": 240.0, "prompt_tokens": 200, "length": 1.0,
             "mixed": 1.0, "startup": 60.0},
    "cpu": {"teraflops": 0.03, "gigabytes_per_s": 1.3, "layer_us": 0.0, "prompt_tokens": 25, "length": 1.0,
            "mixed": 1.0, "startup": 0.5},
}  # fmt: skip
GPUS = [(1, 80), (1, 141), (8, 80)]  # how many, and the GB of each


def gpus(text: str) -> tuple[int, int]:
    """`8x80`: eight GPUs of 80 GB."""
    count, _, size = text.partition("x")
    if not (count.isdecimal() and size.isdecimal() and int(count) and int(size)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 8x80 (eight GPUs of 80 GB)")
    return int(count), int(size)


def not_negative(text: str) -> float:
    """A number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is negative, or not a number")
    return value


def positive(text: str) -> float:
    """A number above 0."""
    if not (value := not_negative(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return value


def share(text: str) -> float:
    """A number above 0, at most 1."""
    if (value := positive(text)) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is above 1")
    return value


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `plan`; without them, the config's section `plan` is asked, and then the device's defaults."""
    parser.add_argument("--config", type=Path, default=Path("config/config.yaml"), metavar="FILE")
    parser.add_argument("--teraflops", type=positive, help="10^12 FLOP/s that a GPU, or a job's CPU threads, reach")
    parser.add_argument("--gigabytes-per-s", type=positive, help="speed of reading weights and cache")
    parser.add_argument("--layer-us", type=not_negative, help="microseconds to launch a layer's operations")
    parser.add_argument("--prompt-tokens", type=positive, help="mean length of a prompt")
    parser.add_argument("--length", type=share, help="mean length of a completion, as a share of the maximum")
    parser.add_argument("--mixed", type=share, help="share of the groups whose rewards are not all equal")
    parser.add_argument("--startup", type=not_negative, help="seconds before a job starts to compute")
    parser.add_argument(
        "--gpus", type=gpus, nargs="+", default=GPUS, metavar="NxGB", help="of the memory plan; default 1x80 1x141 8x80"
    )
