"""No room, no permission, two at once: one line that names path and space, and nothing that was finished is lost."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from faults_harness import Run, assert_same_outcome

from nested_reft.training import checkpoint


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def full_after(calls: int, free: int = 1000) -> Any:
    """The disk has room until it was asked so many times."""

    def prepare() -> None:
        plain, asked = shutil.disk_usage, 0

        def usage(path: Path) -> Any:
            nonlocal asked
            asked += 1
            return plain(path) if asked <= calls else Usage(10**9, 10**9 - free, free)

        shutil.disk_usage = usage  # type: ignore[assignment]

    return prepare


def one_line(output: str) -> str:
    """The error, which stands in the log and on the terminal."""
    lines = [line for line in output.splitlines() if line.startswith("nested-reft train: error: ")]
    assert len(lines) == 2, output
    assert lines[0] == lines[1]
    assert "Traceback" not in output
    return lines[0]


def test_a_full_disk_stops_before_the_checkpoint_and_the_earlier_ones_stay(run: Run, uninterrupted: Run) -> None:
    ended = run.call(full_after(2))
    assert ended.code == 1
    line = one_line(ended.output)
    assert f"{run.checkpoints}: the checkpoint of step 9 needs 0." in line
    assert "0.0 MB are free; make room and call again: what was finished stays valid" in line
    again = run.call()
    assert "continues after step 6\n" in again.output
    assert_same_outcome(run, uninterrupted)


def test_no_room_for_the_final_policy_keeps_the_last_checkpoint(run: Run, uninterrupted: Run) -> None:
    ended = run.call(full_after(4))
    assert ended.code == 1
    assert "out/policy: the model needs 0." in one_line(ended.output)
    assert "continues after step 12\n" in run.call().output
    assert_same_outcome(run, uninterrupted)


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(run: Run, uninterrupted: Run) -> None:
    """The kernel refuses to let any file grow beyond 100 kB from the third checkpoint on."""

    def prepare() -> None:
        plain, calls = checkpoint.save_file, 0

        def save(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            plain(*arguments)

        checkpoint.save_file = save

    ended = run.call(prepare)
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

    def prepare() -> None:
        plain = Path.write_text

        def write(path: Path, *arguments: Any, **options: Any) -> int:
            if path.name == "metrics.jsonl":
                raise OSError(code, os.strerror(code), str(path))
            return plain(path, *arguments, **options)

        Path.write_text = write  # type: ignore[method-assign, assignment]

    ended = run.call(prepare)
    assert ended.code == 1
    line = one_line(ended.output)
    assert f"out/metrics.jsonl: {os.strerror(code)}; make room or permit writing there and call again" in line
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
    """Snakemake's lock keeps two calls apart; this one holds where that was overridden."""
    first = run.start()
    run.wait_for("step 2/12", first)
    os.kill(first, signal.SIGSTOP)
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
    process = run.start()
    run.wait_for("step 1/12", process)
    os.kill(process, signal.SIGKILL)
    run.wait(process)
    assert (run.checkpoints / "lock").exists()
    assert run.call().code == 0
    assert_same_outcome(run, uninterrupted)
