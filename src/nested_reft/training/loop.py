"""The loop around the steps of a training, reinforcement or warm-up: resume, checkpoints, stop, progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nested_reft.runtime.errors import UserError
from nested_reft.training.checkpoint import CheckpointKey, TrainingState, load_checkpoint, save_checkpoint
from nested_reft.training.stopping import StoppedError
from nested_reft.training.world import SINGLE_PROCESS, World

Row = dict[str, Any]  # the metrics of one step


class NumericalError(UserError):
    """A loss or its gradient is not finite; the message names the step, and what to try."""


@dataclass(frozen=True)
class Job:
    """What surrounds a training: its files, whom it tells, and what ends it early.

    checkpoints: the folder of this training and these settings. code: the digest of the sources; a checkpoint that
    other sources made is not continued. report: called after each step with its metrics and the seconds left at the
    pace so far. log: told whether the training continues or starts over, and of alarms. stop: asked before each step;
    if true, what is not saved yet is saved, and StoppedError raised. world: if of several processes, each trains with
    the same arguments and gets the same model and metrics; the main one reports.
    """

    checkpoints: Path
    code: str = ""
    report: Callable[[Row, float], None] = lambda row, seconds_left: None
    log: Callable[[str], None] = lambda text: None
    stop: Callable[[], bool] = lambda: False
    world: World = SINGLE_PROCESS

    def tell(self, text: str) -> None:
        """Log a line, once for all processes."""
        if self.world.is_main:
            self.log(text)


@dataclass(frozen=True)
class ResumableLoop:
    """The steps of the training `name`, on a model and its optimizer; a checkpoint of another `key` is not continued.

    Random draws are seeded by step, and a step sees the metrics of those before it: nothing else goes from one to the
    next, so a training that was interrupted ends exactly like one that was not.
    """

    job: Job
    name: str
    key: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    checkpoint_every: int
    checkpoint_minutes: float | None = None

    def resume(self) -> TrainingState:
        """Put the last checkpoint, if there is one, into model and optimizer; how far it is."""
        job = self.job
        found = load_checkpoint(job.checkpoints, self._key, self.model, self.optimizer, job.tell, job.world)
        return found or TrainingState(0, 0.0, [])

    def run(self, state: TrainingState, make_step: Callable[[int, Sequence[Row]], Row]) -> TrainingState:
        """Make the steps after `state`. `make_step` gets a step's number, from 1, and the metrics of all before it, and
        returns its own. Raises StoppedError; StorageError for a checkpoint that cannot be written.
        """
        job, saved, started = self.job, state.step, time.perf_counter() - state.seconds
        saved_at = state.seconds
        for step in range(state.step + 1, self.steps + 1):
            if job.world.any(job.stop()):
                if saved < state.step:
                    self._save(state)
                raise StoppedError(
                    f"{self.name}: stopped after step {state.step} of {self.steps}; run again to continue"
                )
            row = make_step(step, state.metrics)
            seconds = time.perf_counter() - started
            state = TrainingState(step, seconds, [*state.metrics, row])
            if step == self.steps or self._is_due(step, seconds - saved_at):
                self._save(state)
                saved, saved_at = step, time.perf_counter() - started
            if job.world.is_main:
                job.report(row, seconds / step * (self.steps - step))
        return state

    def _is_due(self, step: int, seconds: float) -> bool:
        """Whether a step's checkpoint is written, so many seconds after the last one; the same for all processes."""
        if self.checkpoint_minutes is None:
            return step % self.checkpoint_every == 0
        return self.job.world.any(seconds >= 60 * self.checkpoint_minutes)

    @property
    def _key(self) -> CheckpointKey:
        return CheckpointKey(self.key, self.job.code)

    def _save(self, state: TrainingState) -> None:
        save_checkpoint(self.job.checkpoints, self._key, self.model, self.optimizer, state, self.job.world)
