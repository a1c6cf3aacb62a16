"""Whatever is killed, broken or another user's: a warm process, its clients and their jobs harm no other job."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from warm_harness import (
    JOB,
    REFUSED,
    Warm,
    ended,
    exits_when_told,
    forked,
    forked_client,
    runs,
    started,
    wait_until,
    waits,
)

from nested_reft import cli
from nested_reft.runtime import warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only on Linux")


@pytest.mark.parametrize("killed", ["client", "keeper"])
def test_a_job_ends_with_its_client_or_keeper(make_warm: Callable[..., Warm], killed: str) -> None:
    process = make_warm(waits)
    client, job = started(process)
    (keeper,) = process.keepers()
    os.kill(client if killed == "client" else keeper, signal.SIGKILL)
    assert ended(client) == -signal.SIGKILL
    wait_until(lambda: not runs(job))
    assert runs(process.number)


def test_a_job_goes_on_without_the_warm_process(make_warm: Callable[..., Warm]) -> None:
    process = make_warm(exits_when_told)
    client, _ = started(process)
    os.kill(process.number, signal.SIGKILL)
    ended(process.number)
    assert ended(forked_client()) == REFUSED
    os.kill(client, signal.SIGTERM)
    assert ended(client) == 75


# --- bad clients, bad servers ---------------------------------------------------------------------------------------


def streams(link: socket.socket, number: int = len(warm.STREAMS)) -> None:
    with open(os.devnull, "r+b") as nothing:
        socket.send_fds(link, [b"\n"], [nothing.fileno()] * number)


def reads_no_answer(link: socket.socket, job: bytes, note: Path) -> None:
    streams(link)
    link.sendall(job)
    wait_until(lambda: note.exists() and note.read_text() != "")


def sends_no_signals(link: socket.socket, job: bytes, note: Path) -> None:
    reads_no_answer(link, job, note)
    assert len(link.recv(1)) == 1
    link.sendall(bytes([0, 255, 0]))


BAD_CLIENTS: dict[str, Callable[[socket.socket, bytes, Path], object]] = {
    "sends nothing": lambda link, job, note: None,
    "sends no streams": lambda link, job, note: link.sendall(b"\n" + job),
    "sends one stream": lambda link, job, note: (streams(link, 1), link.sendall(job)),
    "sends four streams": lambda link, job, note: (streams(link, 4), link.sendall(job)),  # two are dropped
    "sends no job": lambda link, job, note: streams(link),
    "sends half a job": lambda link, job, note: (streams(link), link.sendall(job[: len(job) // 2])),
    "sends noise": lambda link, job, note: (streams(link), link.sendall(b"\xff\x00{]\n")),
    "sends another value": lambda link, job, note: (streams(link), link.sendall(b"null\n")),
    "sends no end of line": lambda link, job, note: (streams(link), link.sendall(b"x" * (warm.LONGEST_LINE + 1))),
    "ends while its job starts": lambda link, job, note: (streams(link), link.sendall(job)),
    "reads no answer": reads_no_answer,
    "sends no signals": sends_no_signals,
}


@pytest.mark.parametrize("behaviour", BAD_CLIENTS)
def test_a_bad_client_ends_its_own_job_only(behaviour: str, make_warm: Callable[..., Warm], tmp_path: Path) -> None:
    process = make_warm(lambda arguments: exits_when_told(arguments) if arguments else 9)
    client, _ = started(process)
    note = tmp_path / "of the bad client"
    job = {"function": JOB, "arguments": [str(note)], "environment": {}, "folder": str(tmp_path)}
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(process.address)
        with contextlib.suppress(ConnectionError):
            BAD_CLIENTS[behaviour](link, json.dumps(job).encode() + b"\n", note)
        assert process.run()[0] == 9
    wait_until(lambda: len(process.keepers()) == 1)
    assert process.run()[0] == 9
    assert not (note.exists() and note.read_text() and runs(int(note.read_text())))
    os.kill(client, signal.SIGTERM)
    assert ended(client) == 75


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """In the place of a warm process; the test is what it does."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        monkeypatch.setenv(warm.VARIABLE, str(tmp_path / "socket"))
        yield listener


@pytest.mark.parametrize(
    ("read", "answer", "code"),
    [(0, b"", REFUSED), (1, b"", REFUSED), (-1, b"", REFUSED), (-1, b"\n", -signal.SIGKILL), (-1, b"\n75", 75)],
    ids=["unread", "half read", "read", "answered", "told how it ended"],
)
def test_a_server_that_ends(listener: socket.socket, read: int, answer: bytes, code: int) -> None:
    """Before its answer, the client goes on by itself; after it, the job may have run, and it was killed."""
    client = forked_client("x" * 300_000)
    link, _ = listener.accept()
    with link, link.makefile("rb") as lines:
        if read:
            lines.read(1)
        if read < 0:
            assert b"xxx" in lines.readline()
        link.sendall(answer)
    assert ended(client) == code


def test_a_server_that_ends_before_it_accepts(listener: socket.socket) -> None:
    def client() -> bool:
        listener.close()  # which it was forked with
        return warm.run_warm(JOB, ["x" * 300_000]) is None

    number = forked(client)
    select.select([listener], [], [])
    listener.close()
    assert ended(number) == 1


def test_ctrl_c_while_a_client_waits(listener: socket.socket, tmp_path: Path) -> None:
    def client() -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return cli.main(["figure", "--root", str(tmp_path), "name"])

    number = forked(client)
    link, _ = listener.accept()
    with link, link.makefile("rb") as lines:
        lines.readline(), lines.readline()
        os.kill(number, signal.SIGINT)
        assert ended(number) == 130


# --- other users ----------------------------------------------------------------------------------------------------


def test_nobody_else_can_enter_the_folder(make_warm: Callable[..., Warm]) -> None:
    folder = Path(make_warm(waits).address).parent.stat()
    assert (stat.S_IMODE(folder.st_mode), folder.st_uid) == (0o700, os.geteuid())


def test_a_client_hands_nothing_to_another_user(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    client = forked_client()
    link, _ = listener.accept()
    with link:
        assert link.recv(1) == b""
    assert ended(client) == REFUSED


def test_a_warm_process_forks_for_no_other_user(
    make_warm: Callable[..., Warm], monkeypatch: pytest.MonkeyPatch
) -> None:
    user = os.geteuid()
    with monkeypatch.context() as change:
        change.setattr(os, "geteuid", lambda: user + 1)
        make_warm(lambda arguments: 9)
    assert ended(forked_client()) == REFUSED
