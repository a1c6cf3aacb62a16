"""No room, no permission, two at once: one line that names path and space, and nothing that was finished is lost."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faults_harness import Run, assert_same_outcome, at_call, killing, one_line

from nested_reft.training import checkpoint
from nested_reft.training import run as training_run


def full_after(calls: int) -> Callable[[], None]:
    """The disk has room until it was asked so many times."""
    return at_call(shutil, "disk_usage", calls + 1, lambda *_: SimpleNamespace(free=1000), onwards=True)


@pytest.mark.parametrize(
    ("calls", "message", "kept"),
    [(2, "checkpoints/{key}: the checkpoint of step 9 needs 0.", 6), (4, "out/policy: the model needs 0.", 12)],
)
def test_a_full_disk_stops_before_anything_is_written_and_what_was_stays(
    run: Run, uninterrupted: Run, calls: int, message: str, kept: int
) -> None:
    ended = run.call(full_after(calls))
    assert ended.code == 1
    line = one_line(ended.output)
    assert message.format(key=run.settings.key) in line
    assert "0.0 MB are free; make room and run it again: finished work stays valid" in line
    assert f"continues after step {kept}\n" in run.call().output
    assert_same_outcome(run, uninterrupted)


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(run: Run, uninterrupted: Run) -> None:
    """The kernel refuses to let any file grow beyond 100 kB from the third checkpoint on."""

    def limited(plain: Callable[..., None], *arguments: Any) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        plain(*arguments)

    ended = run.call(at_call(checkpoint, "save_file", 3, limited))
    assert ended.code == 1, ended.output
    line = one_line(ended.output)
    assert f"{run.checkpoints}: the checkpoint of step 9 cannot be written" in line
    assert "it needs 0." in line
    assert not list(run.checkpoints.glob("*.tmp"))
    assert "continues after step 6\n" in run.call().output
    assert_same_outcome(run, uninterrupted)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_results_that_cannot_be_written_are_named(run: Run, uninterrupted: Run, code: int) -> None:
    """As root no folder refuses a write, so the refusal is made here."""

    def write(plain: Callable[..., int], path: Path, *arguments: Any, **options: Any) -> int:
        if path.name == "metrics.jsonl":
            raise OSError(code, os.strerror(code), str(path))
        return plain(path, *arguments, **options)

    ended = run.call(at_call(Path, "write_text", 1, write, onwards=True))
    assert ended.code == 1
    line = one_line(ended.output)
    assert f"out/metrics.jsonl: {os.strerror(code)}; make room or permit writing there and run it again" in line
    assert "continues after step 12\n" in run.call().output
    assert_same_outcome(run, uninterrupted)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(run: Run) -> None:
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints").chmod(0o500)
    ended = run.call()
    assert ended.code == 1
    assert "checkpoints" in one_line(ended.output)
    assert "Permission denied; make room or permit writing there" in ended.output


def test_two_processes_do_not_train_one_run(run: Run, uninterrupted: Run) -> None:
    """Snakemake's lock keeps two calls apart; this one holds if that was overridden."""

    def paused(reft_step: Callable[..., Any], *arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGSTOP)
        return reft_step(*arguments)

    first = run.start(at_call(training_run, "reft_step", 3, paused))
    assert os.WIFSTOPPED(os.waitpid(first, os.WUNTRACED)[1])
    log = (run.folder / "log.txt").read_text(encoding="utf-8")
    twin = Run(run.folder, run.settings)
    second = twin.call()
    assert second.code == 1
    assert f"{run.checkpoints}: another process is training this run; wait for it" in one_line(second.output)
    (run.folder / "log.txt").write_text(log, encoding="utf-8")
    os.kill(first, signal.SIGCONT)
    assert run.wait(first).code == 0
    assert_same_outcome(run, uninterrupted)


def test_the_lock_of_a_killed_process_is_none(run: Run, uninterrupted: Run) -> None:
    assert run.call(killing(training_run, "reft_step", 2)).code == -signal.SIGKILL
    assert (run.checkpoints / "lock").exists()
    assert run.call().code == 0
    assert_same_outcome(run, uninterrupted)
