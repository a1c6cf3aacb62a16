"""The loop around the steps: when checkpoints are written, by the step or by the clock."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from nested_reft.training import loop
from nested_reft.training.checkpoint import TrainingState
from nested_reft.training.loop import Job, ResumableLoop


def saved_steps(monkeypatch: pytest.MonkeyPatch, folder: Path, minutes: float | None, done: int = 0) -> list[int]:
    """The steps after which a checkpoint is written: of ten steps of a minute each, and two minutes of writing."""
    clock, saved = [0.0], list[int]()

    def save(folder: Path, key: object, model: object, optimizer: object, state: TrainingState, world: object) -> None:
        saved.append(state.step)
        clock[0] += 120

    def step(number: int, metrics: object) -> dict[str, int]:
        clock[0] += 60
        return {"step": number}

    monkeypatch.setattr(loop, "save_checkpoint", save)
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock[0])
    model = nn.Linear(1, 1)
    of = ResumableLoop(Job(folder), "run", "key", model, torch.optim.SGD(model.parameters()), 10, 4, minutes)
    of.run(TrainingState(done, 60.0 * done, [{"step": number} for number in range(1, done + 1)]), step)
    return saved


def test_checkpoints_come_by_the_step_or_by_the_clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert saved_steps(monkeypatch, tmp_path, None) == [4, 8, 10]
    assert saved_steps(monkeypatch, tmp_path, 3) == [3, 6, 9, 10], "the time of writing one does not count"
    assert saved_steps(monkeypatch, tmp_path, 60) == [10], "the last step is always saved"
    assert saved_steps(monkeypatch, tmp_path, 3, done=5) == [8, 10], "counted from where the run continues"
