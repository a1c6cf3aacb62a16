"""Warm processes, clients and jobs for tests: all are forked from the test's own process."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from nested_reft.runtime import warm

HANG_SECONDS = 300  # only a process that waits forever takes as long
JOB = f"{__name__}:the_job"
REFUSED = 33  # the exit code of a client that is left to run its job itself


def forked(work: Callable[[], object]) -> int:
    """A process that does this work; its exit code is what the work returns."""
    sys.stdout.flush()
    if (number := os.fork()) == 0:
        code = 70
        try:
            code = int(work() or 0)  # type: ignore[call-overload]
        finally:
            os._exit(code)
    return number


def forked_client(*arguments: str) -> int:
    return forked(lambda: REFUSED if (code := warm.run_warm(JOB, arguments)) is None else code)


def ended(number: int) -> int:
    """The exit code of a process of this one, or minus the signal that ended it."""
    deadline = time.monotonic() + HANG_SECONDS
    while time.monotonic() < deadline:
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(number, signal.SIGKILL)
    raise AssertionError("still running")


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANG_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def runs(number: int) -> bool:
    """Whether a process that is not ours has not ended; one that nobody has waited for has."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Warm:
    """A warm process whose jobs call `job` with their arguments."""

    def __init__(
        self,
        folder: Path,
        job: Callable[[list[str]], int],
        monkeypatch: pytest.MonkeyPatch,
        packages: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        monkeypatch.setattr(sys.modules[__name__], "the_job", job, raising=False)
        parent, (read, write) = os.getpid(), os.pipe()

        def serve() -> None:
            os.dup2(write, 1)
            os.close(write)
            atexit._clear()  # pytest's delete old folders, which takes long, and jobs run what they find
            sys.stdout = os.fdopen(1, "w", closefd=False)  # not pytest's
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            warm.serve(parent, packages)

        self.number = forked(serve)
        os.close(write)
        with os.fdopen(read) as lines:
            self.address = lines.readline().strip()
        monkeypatch.setenv(warm.VARIABLE, self.address)

    def keepers(self) -> list[int]:
        children = Path(f"/proc/{self.number}/task/{self.number}/children").read_text().split()
        return [int(number) for number in children if runs(int(number))]

    def start(self, *arguments: str) -> int:
        """A client, whose output goes to `output` in the folder."""

        def client() -> int | None:
            with (self.folder / "output").open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            return warm.run_warm(JOB, arguments)

        return forked(client)

    def run(self, *arguments: str) -> tuple[int, str]:
        code = ended(self.start(*arguments))
        return code, (self.folder / "output").read_text()


def waits(arguments: list[str]) -> int:
    """A job that names its process and waits."""
    Path(arguments[0]).write_text(str(os.getpid()))
    signal.pause()
    return 0


def exits_when_told(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    return waits(arguments)


def started(process: Warm) -> tuple[int, int]:
    """The processes of a client and of its job, which waits."""
    note = process.folder / "job"
    client = process.start(str(note))
    wait_until(lambda: note.exists() and note.read_text() != "")
    return client, int(note.read_text())
