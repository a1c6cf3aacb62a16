"""A polite stop: the step in hand is finished and saved, the exit code says so, and the next call goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from faults_harness import Run, assert_same_outcome, at_call

from nested_reft.commands import loading, train
from nested_reft.rollouts.policy import Policy
from nested_reft.training import run as training_run

STOPPED = 75


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_saves_the_step_in_hand_and_the_next_call_goes_on(
    run: Run, uninterrupted: Run, number: signal.Signals
) -> None:
    def interrupted(reft_step: Callable[..., Any], *arguments: Any) -> Any:
        os.kill(os.getpid(), number)
        return reft_step(*arguments)

    ended = run.call(at_call(training_run, "reft_step", 5, interrupted))
    assert ended.code == STOPPED, ended.output
    assert "step 5/12" in ended.output
    assert "step 6/12" not in ended.output
    expected = "tiny/stories/retrace/skip34/seed1: stopped after step 5 of 12; run again to continue"
    assert ended.output.count(f"nested-reft train: error: {expected}\n") == 2  # log and terminal
    assert "Traceback" not in ended.output
    assert not (run.folder / "out").exists()

    again = run.call()
    assert again.code == 0, again.output
    assert "continues after step 5\n" in again.output
    assert_same_outcome(run, uninterrupted)


def test_a_stop_before_the_first_step_saves_nothing_and_loses_nothing(run: Run, uninterrupted: Run) -> None:
    def stopped(load_policy: Callable[..., Policy], *arguments: Any, **options: Any) -> Policy:
        os.kill(os.getpid(), signal.SIGTERM)
        return load_policy(*arguments, **options)

    ended = run.call(at_call(loading, "load_policy", 1, stopped))
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
            print("noted", flush=True)

    process = run.start(at_call(training_run, "reft_step", 1, hang))
    run.wait_for("hanging", process)
    os.kill(process, signal.SIGTERM)
    run.wait_for("noted", process)  # two at once would be one
    os.kill(process, signal.SIGTERM)
    assert run.wait(process).code == -signal.SIGTERM


def test_ctrl_c_outside_training_is_one_line(run: Run) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    ended = run.call(at_call(train, "run", 1, interrupted))
    assert ended.code == 130
    assert "nested-reft train: error: stopped by Ctrl-C; run it again to continue\n" in ended.output
    assert "Traceback" not in ended.output
