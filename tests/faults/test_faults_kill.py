"""SIGKILL at any moment: the run continues from its last checkpoint, and ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable

import pytest
from faults_harness import Run, assert_same_outcome, killing
from tqdm.auto import tqdm

from nested_reft.commands import train
from nested_reft.engine import sampling
from nested_reft.rollouts import policy
from nested_reft.runtime import files
from nested_reft.training import accumulation, checkpoint, step
from nested_reft.training import loop as training_loop
from nested_reft.training import run as training_run

KILLS = 20


# Every phase of a run of 12 steps with a checkpoint after each third: (moment, last step that was saved).
MOMENTS: dict[str, tuple[Callable[[], None], int]] = {
    "while a progress bar is drawn": (killing(tqdm, "display", 1), 0),
    "before the first step": (killing(training_run, "reft_step", 1), 0),
    "in a rollout": (killing(sampling, "_choose", 37), 3),
    "after a rollout": (killing(step, "gather_batch", 8), 6),
    "between loss and update": (killing(step, "policy_loss", 9, after=True), 3),
    "between two updates of one step": (killing(accumulation, "off_policy_diagnostics", 5), 3),
    "before a checkpoint": (killing(training_loop, "save_checkpoint", 2), 3),
    "while a checkpoint is written": (killing(checkpoint, "save_file", 2, after=True), 3),
    "before a checkpoint is moved to its place": (killing(os, "fsync", 5), 3),
    "between a checkpoint and its checksum": (killing(checkpoint, "_sha256", 2), 3),
    "after a checkpoint": (killing(training_loop, "save_checkpoint", 3, after=True), 9),
    "after the last checkpoint": (killing(training_loop, "save_checkpoint", 4, after=True), 12),
    "before the policy is written": (killing(policy, "check_space", 1), 12),
    "before the metrics are written": (killing(train, "write_steps", 1), 12),
    "before the manifest is written": (killing(train, "build_manifest", 1), 12),
    "before the checkpoints are removed": (killing(shutil, "rmtree", 2), 12),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_in_any_phase_ends_the_same(run: Run, uninterrupted: Run, moment: str) -> None:
    prepare, saved = MOMENTS[moment]
    killed = run.call(prepare)
    assert killed.code == -signal.SIGKILL, f"the moment did not come:\n{killed.output}"
    again = run.call()
    assert again.code == 0, again.output
    start = f"continues after step {saved}\n" if saved else "starts at step 1: no checkpoint to continue from\n"
    assert start in again.output
    assert_same_outcome(run, uninterrupted)
    assert not run.checkpoints.exists()


def test_a_run_killed_at_twenty_random_moments_ends_the_same(run: Run, uninterrupted: Run) -> None:
    """Each process lives for a random time, from less than a step to several checkpoints."""
    rng = random.Random(0)
    whole = run_seconds(uninterrupted)
    kills = 0
    while kills < KILLS:
        process = run.start()
        time.sleep(rng.uniform(0, 0.25) * whole)
        os.kill(process, signal.SIGKILL)
        ended = run.wait(process)
        kills += ended.code == -signal.SIGKILL
        if ended.code == 0:  # it finished first: start the run over
            shutil.rmtree(run.folder / "out")
    ended = run.call()
    assert ended.code == 0, ended.output
    assert_same_outcome(run, uninterrupted)


def run_seconds(finished: Run) -> float:
    """How long the whole run takes in a fresh process here and now."""
    twin = Run.prepared(finished.folder / "timed")
    return twin.call().seconds


def test_no_half_written_file_stands_under_a_final_name(run: Run) -> None:
    """A checkpoint is moved to its place when it is whole; what a kill leaves beside it is not taken for one."""
    run.call(killing(files.os, "fsync", 1))
    left = [path.name for path in run.checkpoints.iterdir() if path.name != "lock"]
    assert len(left) == 1
    assert left[0].startswith("step00000003.safetensors.")
    assert left[0].endswith(".tmp")
