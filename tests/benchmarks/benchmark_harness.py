"""Runs a benchmark as a user does, with --quick, and checks what every one of them promises."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "benchmarks"
MACHINE = {"benchmark", "cpu", "threads", "device", "quick", "python", "torch", "transformers"}


def call(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A benchmark in a separate process, without the hub."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def result_of(done: subprocess.CompletedProcess[str], name: str) -> dict[str, Any]:
    """The JSON object of the last line; every number in it is finite, and the machine is named."""
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.strip().splitlines()
    result = json.loads(lines[-1])
    assert len(lines) > 1, "nothing for people to read"
    assert result.keys() >= MACHINE
    assert result["benchmark"] == name
    assert result["quick"] is True
    assert all(math.isfinite(number) for number in numbers(result))
    return dict(result)


def numbers(value: Any) -> Iterator[float]:
    """Every number in a structure of dictionaries and lists."""
    if isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from numbers(entry)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def positive(value: Any) -> bool:
    """Whether there are numbers in it and all are above 0."""
    found = list(numbers(value))
    return bool(found) and min(found) > 0
