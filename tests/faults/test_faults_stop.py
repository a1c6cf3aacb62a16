"""A polite stop: the step in hand is finished and saved, the exit code says so, and the next call goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from faults_harness import Run, assert_same_outcome, at_call

from nested_reft.commands import train
from nested_reft.tasks.policy import Policy
from nested_reft.training import run as training_run

STOPPED = 75
SECONDS = 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_saves_the_step_in_hand_and_the_next_call_goes_on(
    run: Run, uninterrupted: Run, number: signal.Signals
) -> None:
    process = run.start()
    run.wait_for("step 4/12", process)
    os.kill(process, number)
    ended = run.wait(process)
    assert ended.code == STOPPED, ended.output
    assert ended.seconds < SECONDS
    last = [line for line in ended.output.splitlines() if "step " in line and "/12" in line][-1]
    done = int(last.split("step ")[1].split("/")[0])
    assert done < 12, "it finished before the signal came"
    expected = f"tiny/stories/retrace/skip34/seed1: stopped after step {done} of 12; run again to continue"
    assert ended.output.count(f"nested-reft train: error: {expected}\n") == 2  # log and terminal
    assert "Traceback" not in ended.output
    assert not (run.folder / "out").exists()

    again = run.call()
    assert again.code == 0, again.output
    assert f"continues after step {done}\n" in again.output
    assert_same_outcome(run, uninterrupted)


def test_a_stop_before_the_first_step_saves_nothing_and_loses_nothing(run: Run, uninterrupted: Run) -> None:
    def stopped(load_policy: Callable[..., Policy], *arguments: Any, **options: Any) -> Policy:
        os.kill(os.getpid(), signal.SIGTERM)
        return load_policy(*arguments, **options)

    ended = run.call(at_call(train, "load_policy", 1, stopped))
    assert ended.code == STOPPED, ended.output
    assert "stopped after step 0 of 12" in ended.output
    assert not list(run.checkpoints.glob("step*"))
    assert run.call().code == 0
    assert_same_outcome(run, uninterrupted)


def test_a_second_signal_ends_the_process_at_once(run: Run) -> None:
    """As it would without our handling: a step at paper scale takes minutes, and a user may not want to wait."""

    def hang(*_: object) -> None:
        print("hanging", flush=True)
        while True:
            signal.pause()

    process = run.start(at_call(training_run, "reft_step", 1, hang))
    run.wait_for("hanging", process)
    os.kill(process, signal.SIGTERM)
    time.sleep(0.3)  # two at once would be one
    os.kill(process, 0)
    os.kill(process, signal.SIGTERM)
    assert run.wait(process).code == -signal.SIGTERM


def test_ctrl_c_outside_training_is_one_line(run: Run) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    ended = run.call(at_call(train, "run", 1, interrupted))
    assert ended.code == 130
    assert "nested-reft train: error: stopped by Ctrl-C; run it again to continue\n" in ended.output
    assert "Traceback" not in ended.output
