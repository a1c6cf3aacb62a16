"""Runs `nested-reft train` in separate processes that a test can kill, on a policy so small that a run takes seconds.

The processes are forked, since starting an interpreter and importing torch takes longer than the run.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tiny_training import TIMINGS, grade_by_checksum, tiny_policy, tiny_problems, tiny_settings
from torch import Tensor
from tqdm.auto import tqdm

from nested_reft.cli import main
from nested_reft.config.training import TrainSettings
from nested_reft.data.records import write_problems
from nested_reft.rollouts import rewards
from nested_reft.rollouts.policy import save_policy

HANG_SECONDS = 900  # only a process that waits forever takes as long, on any machine


def at_call(
    module: Any, name: str, call: int, instead: Callable[..., Any], *, onwards: bool = False
) -> Callable[[], None]:
    """Preparation for `Run.call`: call number `call` (from 1) of `module.name` becomes one of `instead`.

    `instead` takes the plain function before the call's own arguments. With `onwards`, so does every later call.
    """

    def prepare() -> None:
        plain, calls = getattr(module, name), itertools.count(1)

        def counted(*arguments: Any, **options: Any) -> Any:
            number = next(calls)
            if number == call or (onwards and number > call):
                return instead(plain, *arguments, **options)
            return plain(*arguments, **options)

        setattr(module, name, counted)

    return prepare


def killing(module: Any, name: str, call: int, *, after: bool = False) -> Callable[[], None]:
    """Have the process die at the given call (from 1) of a function, before it or after it."""

    def instead(plain: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        if after:
            plain(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    return at_call(module, name, call, instead)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, or minus the signal that killed it; what it wrote; seconds."""

    code: int
    output: str
    seconds: float


@dataclass(frozen=True)
class Run:
    """One training run in `folder`: its command, and what it leaves."""

    folder: Path
    settings: TrainSettings

    @classmethod
    def prepared(cls, folder: Path, **training: Any) -> Run:
        """An untrained policy and problems on disk, and a nested run on them."""
        folder.mkdir(parents=True, exist_ok=True)
        save_policy(tiny_policy(), folder / "model")
        write_problems(folder / "problems.jsonl", tiny_problems())
        options = {
            "steps": 12, "problems_per_step": 2, "checkpoint_every": 3,
            "updates_per_rollout": 2, "kl_coefficient": 0.01,
        }  # fmt: skip
        return cls(folder, tiny_settings(**options | training))

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints" / self.settings.key

    @property
    def arguments(self) -> list[str]:
        """What the rule `train` calls."""
        files = {"policy": "model", "problems": "problems.jsonl", "checkpoints": "checkpoints", "output": "out/policy"}
        files |= {"metrics": "out/metrics.jsonl", "manifest": "out/manifest.json"}
        paths = [part for name, path in files.items() for part in (f"--{name}", str(self.folder / path))]
        return ["train", "--settings", self.settings.canonical_json(), *paths]

    def start(self, prepare: Callable[[], None] = lambda: None) -> int:
        """Fork a process that calls `prepare` and trains; its process id."""
        log = self.folder / "log.txt"
        sys.stdout.flush()
        sys.stderr.flush()
        if (process := os.fork()) == 0:
            code = 70
            try:
                with log.open("w", buffering=1, encoding="utf-8") as output:
                    os.dup2(output.fileno(), 1)
                    os.dup2(output.fileno(), 2)
                    sys.stdout, sys.stderr = output, output
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    # tqdm's own lock is shared with this process: whoever is killed under it would hang all others.
                    tqdm.set_lock(threading.RLock())
                    rewards.grade = grade_by_checksum
                    prepare()
                    code = main(self.arguments)
            finally:
                os._exit(code)
        return process

    def wait(self, process: int, timeout: float = HANG_SECONDS) -> Ended:
        """Wait for the end of a process that `start` made."""
        started = time.monotonic()
        while True:
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                output = (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
                return Ended(os.waitstatus_to_exitcode(status), output, time.monotonic() - started)
            if time.monotonic() - started > timeout:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                raise AssertionError(f"still running after {timeout} s")
            time.sleep(0.002)

    def call(self, prepare: Callable[[], None] = lambda: None) -> Ended:
        return self.wait(self.start(prepare))

    def wait_for(self, text: str, process: int, timeout: float = HANG_SECONDS) -> None:
        """Wait until the log has `text`."""
        deadline = time.monotonic() + timeout
        log = self.folder / "log.txt"
        while not (log.exists() and text in log.read_text(encoding="utf-8", errors="replace")):
            assert time.monotonic() < deadline, f"'{text}' did not come"
            os.kill(process, 0)
            time.sleep(0.002)

    def outcome(self) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """The final weights, and the metrics without times."""
        lines = (self.folder / "out/metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [{key: value for key, value in json.loads(line).items() if key not in TIMINGS} for line in lines]
        return load_file(self.folder / "out/policy/model.safetensors"), rows


def one_line(output: str) -> str:
    """The error, which is in the log and on the terminal."""
    lines = [line for line in output.splitlines() if line.startswith("nested-reft train: error: ")]
    assert len(lines) == 2, output
    assert lines[0] == lines[1]
    assert "Traceback" not in output
    return lines[0]


def assert_same_outcome(run: Run, expected: Run) -> None:
    """Weights to the last bit, metrics to the last digit, no step missing or twice."""
    (weights, rows), (expected_weights, expected_rows) = run.outcome(), expected.outcome()
    assert [row["step"] for row in rows] == list(range(1, run.settings.training.steps + 1))
    assert rows == expected_rows
    assert weights.keys() == expected_weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, expected_weights[name]), name
