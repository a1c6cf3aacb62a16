"""Runs `nested-reft train` in processes of its own that a test can kill, on a policy so small that a run takes seconds.

The processes are forked, since starting an interpreter and importing torch takes longer than the run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from nested_reft.cli import main
from nested_reft.config import GeneratedProblems, Prompt, ScratchModel
from nested_reft.config.jobs import TrainSettings
from nested_reft.tasks import rewards
from nested_reft.tasks.policy import Policy, save_policy
from nested_reft.tasks.problems import generate_problems
from nested_reft.tasks.records import write_problems
from nested_reft.training.pretrain import build_model, build_tokenizer

torch.set_num_threads(1)  # a forked process cannot use the threads of the one it was forked from

PROMPT = Prompt(style="plain", suffix=" answer :")
MODEL = ScratchModel(
    source="scratch", layers=6, width=16, heads=2, key_value_heads=1, feed_forward=32, pretraining_steps=1,
    pretraining_learning_rate=0.01,
)  # fmt: skip
TIMINGS = {"rollout_seconds", "reward_seconds", "update_seconds", "rollout_tokens_per_s", "tokens_per_s"}


def grade_by_checksum(response: str, gold: str) -> bool:
    """A reward that about half of all texts earn: an untrained model solves nothing, and no reward is no gradient."""
    return zlib.crc32(f"{response}/{gold}".encode()) % 2 == 0


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
    def prepared(cls, folder: Path, *, steps: int = 12, checkpoint_every: int = 3, **training: Any) -> Run:
        """An untrained policy and problems on disk, and a nested run on them."""
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = build_tokenizer(PROMPT)
        model = build_model(MODEL, tokenizer, 0).eval()
        save_policy(Policy(model, tokenizer, (tokenizer.eos_token_id,), tokenizer.pad_token_id), folder / "model")
        stories = GeneratedProblems(source="generated", problems=10, steps=(1, 2))
        write_problems(folder / "problems.jsonl", generate_problems(stories, "train", "tiny"))
        options = {
            "steps": steps, "problems_per_step": 2, "completions_per_problem": 4, "max_new_tokens": 5,
            "learning_rate": 0.003, "warmup_steps": 2, "checkpoint_every": checkpoint_every, "updates_per_rollout": 2,
            "kl_coefficient": 0.01, "alarms": {"ess_below": None, "kl_above": None},
        } | training  # fmt: skip
        run = {"size": "tiny", "dataset": "stories", "correction": "retrace", "skip": 34, "seed": 1}
        settings = {"run": run, "training": options, "params": {}, "prompt": PROMPT, "device": "cpu"}
        return cls(folder, TrainSettings.model_validate(settings))

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
                    rewards.grade = grade_by_checksum
                    prepare()
                    code = main(self.arguments)
            finally:
                os._exit(code)
        return process

    def wait(self, process: int, timeout: float = 120) -> Ended:
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

    def wait_for(self, text: str, process: int, timeout: float = 60) -> None:
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


def assert_same_outcome(run: Run, expected: Run) -> None:
    """Weights to the last bit, metrics to the last digit, no step missing or twice."""
    (weights, rows), (expected_weights, expected_rows) = run.outcome(), expected.outcome()
    assert [row["step"] for row in rows] == list(range(1, run.settings.training.steps + 1))
    assert rows == expected_rows
    assert weights.keys() == expected_weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, expected_weights[name]), name
