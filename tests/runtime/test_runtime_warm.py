"""Jobs forked from a warm process are what they are in a process of their own, and end when they should."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import random
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from nested_reft import cli
from nested_reft.runtime import warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only on Linux")
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


@pytest.fixture
def make_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Warm]]:
    made: list[Warm] = []

    def make(job: Callable[[list[str]], int], packages: Sequence[str] = ()) -> Warm:
        made.append(Warm(tmp_path, job, monkeypatch, packages))
        return made[-1]

    yield make
    for process in made:
        if runs(process.number):
            os.kill(process.number, signal.SIGKILL)
            os.waitpid(process.number, 0)
        shutil.rmtree(Path(process.address).parent, ignore_errors=True)


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


def test_a_job_has_its_arguments_folder_environment_streams_and_exit_code(
    make_warm: Callable[..., Warm], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def job(arguments: list[str]) -> int:
        found = [arguments[0], sys.argv[0], os.getcwd(), os.environ["OF_THE_JOB"], warm.VARIABLE in os.environ]
        print(json.dumps(found), flush=True)
        print("also on standard error", file=sys.stderr)
        atexit.register(print, "at its end")
        return 75

    process = make_warm(job)
    monkeypatch.setenv("OF_THE_JOB", "set after the warm process started")
    monkeypatch.chdir(tmp_path)
    code, output = process.run("x" * 300_000)  # more than a socket holds
    found, error, end = output.splitlines()
    assert code == 75
    assert json.loads(found) == ["x" * 300_000, "nested-reft", str(tmp_path), os.environ["OF_THE_JOB"], False]
    assert (error, end) == ("also on standard error", "at its end")


@pytest.mark.parametrize(("end", "code"), [(SystemExit(3), 3), (SystemExit(), 0), (ValueError("a fault"), 1)])
def test_an_exception_is_what_it_is_in_a_process_of_its_own(
    make_warm: Callable[..., Warm], end: BaseException, code: int
) -> None:
    def job(arguments: list[str]) -> int:
        raise end

    found, output = make_warm(job).run()
    assert found == code
    assert ("ValueError: a fault" in output) == isinstance(end, ValueError)


def test_jobs_run_side_by_side_and_with_random_states_of_their_own(
    make_warm: Callable[..., Warm], tmp_path: Path
) -> None:
    def job(arguments: list[str]) -> int:
        Path(arguments[0]).write_text(f"{random.random()} {sys.modules['numpy'].random.random()}")
        wait_until(lambda: all((tmp_path / name).exists() for name in "ab"))  # neither would end alone
        return 0

    process = make_warm(job, ["numpy.random"])
    clients = [process.start(str(tmp_path / name)) for name in "ab"]
    assert [ended(number) for number in clients] == [0, 0]
    first, second = ((tmp_path / name).read_text().split() for name in "ab")
    assert len({*first, *second}) == 4


def test_a_signal_to_the_client_reaches_the_job(make_warm: Callable[..., Warm]) -> None:
    client, _ = started(make_warm(exits_when_told))
    os.kill(client, signal.SIGTERM)
    assert ended(client) == 75


def test_ctrl_c_in_a_job(make_warm: Callable[..., Warm]) -> None:
    def job(arguments: list[str]) -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of pytest-xdist ignores it
        try:
            return waits(arguments)
        except KeyboardInterrupt:
            return 130

    client, _ = started(make_warm(job))
    os.kill(client, signal.SIGINT)
    assert ended(client) == 130


def test_a_client_ends_by_the_signal_that_ended_its_job(make_warm: Callable[..., Warm]) -> None:
    client, job = started(make_warm(waits))
    os.kill(job, signal.SIGKILL)
    assert ended(client) == -signal.SIGKILL


def test_a_job_ends_with_its_client(make_warm: Callable[..., Warm]) -> None:
    process = make_warm(waits)
    client, job = started(process)
    os.kill(client, signal.SIGKILL)
    ended(client)
    wait_until(lambda: not runs(job))
    assert runs(process.number)


def test_a_job_and_its_client_end_with_their_keeper(make_warm: Callable[..., Warm]) -> None:
    process = make_warm(waits)
    client, job = started(process)
    (keeper,) = process.keepers()
    os.kill(keeper, signal.SIGKILL)
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
        return cli.main(["figure", "--settings", "{}", "--root", str(tmp_path), "name"])

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


# --- whether there is a warm process --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "off", "nowhere", "stale"])
def test_without_a_warm_process_the_job_runs_in_its_own(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value == "stale":  # of a warm process that was killed
        value = str(tmp_path / "stale")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(value)
    monkeypatch.setenv(warm.VARIABLE, value)
    assert warm.run_warm(JOB, []) is None


def test_what_imports_nothing_heavy_is_not_handed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    handed: list[str] = []
    monkeypatch.setattr(cli, "run_warm", lambda function, arguments: handed.append(arguments[0]) or 9)
    files = ["--root", str(tmp_path)]
    assert cli.main(["figure", "--settings", "{}", *files, "name"]) == 9
    assert cli.main(["timings", *files]) == 1  # there are none
    assert handed == ["figure"]


def test_packages_are_imported_before_the_fork(
    make_warm: Callable[..., Warm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_training.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("of_training", "not_installed")
    process = make_warm(lambda arguments: print(*(name for name in names if name in sys.modules)) or 0, names)
    assert process.run() == (0, "of_training\n")


def test_what_is_imported_before_the_fork_exists() -> None:
    """A name that does not is passed over, and each job would import it again."""
    names = {*warm.COMPUTING, *warm.REPORTING}
    assert [name for name in sorted(names) if importlib.util.find_spec(name) is None] == []


def test_a_training_imports_almost_nothing_of_others_after_the_fork() -> None:
    """Modules of others that a job's own imports find missing are paid for by every job."""
    code = (
        "import importlib, sys; from nested_reft.runtime import warm\n"
        "for name in warm.COMPUTING: importlib.import_module(name)\n"
        "before = set(sys.modules)\n"
        "import nested_reft.commands.train, nested_reft.commands.evaluate\n"
        "from nested_reft.runtime.sources import source_digest; source_digest('nested_reft.commands.train')\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before if '.' in name})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic_core", "grimp", "torch", "transformers"} & set(found)


def test_a_job_imports_our_sources_when_it_starts() -> None:
    """Or a job would run the sources of the time when Snakemake started."""
    code = (
        "import sys; from nested_reft.runtime import warm\n"
        "for name in {*warm.COMPUTING, *warm.REPORTING}: __import__(name)\n"
        "print(sorted(name for name in sys.modules if name.startswith('nested_reft')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['nested_reft', 'nested_reft.runtime', 'nested_reft.runtime.warm']"


@pytest.mark.parametrize("temporary", ["t", "t" * 130])
def test_the_warm_process_ends_with_the_one_that_started_it(temporary: str, tmp_path: Path) -> None:
    """Wherever temporary files go: the path of a socket has at most 107 bytes."""
    (tmp_path / temporary).mkdir()
    code = (
        "import os, sys; from pathlib import Path; from nested_reft.runtime import warm\n"
        "os.environ[warm.VARIABLE] = warm.start(Path(sys.argv[1]), 1, ())\n"
        "print(os.environ[warm.VARIABLE], warm.run_warm('math:floor', (9.5,)), flush=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "log")], capture_output=True, text=True, check=True,
        timeout=HANG_SECONDS, env={**os.environ, "TMPDIR": str(tmp_path / temporary)},
    )  # fmt: skip
    address, result = done.stdout.split()
    assert result == "1"  # the job ends with a TypeError, as a list has no floor
    assert "TypeError: must be real number, not list" in done.stderr
    wait_until(lambda: not Path(address).parent.exists())
    assert (tmp_path / "log").read_text() == ""


def test_a_warm_process_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "SERVE", "import sys; sys.exit('no room')")
    assert warm.start(tmp_path / "log", 1, ()) == ""
    assert (tmp_path / "log").read_text() == "no room\n"
