"""Jobs forked from a warm process are what they are in a process of their own, and end when they should."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nested_reft import cli
from nested_reft.runtime import warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only on Linux")
HANG_SECONDS = 300  # only a process that waits for ever takes as long


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

    def __init__(self, folder: Path, job: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.address = folder, folder / "socket"
        monkeypatch.setattr(cli, "main", job)
        parent = os.getpid()
        self.number = forked(lambda: warm.serve(self.address, parent, "evaluate", packages={}))
        monkeypatch.setenv(warm.VARIABLE, str(self.address))
        wait_until(self.address.exists)

    def start(self, *arguments: str) -> int:
        """A stand-in, whose output goes to `output` in the folder."""

        def stand_in() -> int | None:
            with (self.folder / "output").open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            return warm.run_warm(["evaluate", *arguments])

        return forked(stand_in)

    def run(self, *arguments: str) -> tuple[int, str]:
        code = ended(self.start(*arguments))
        return code, (self.folder / "output").read_text()


@pytest.fixture
def make_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Warm]]:
    made: list[Warm] = []

    def make(job: Callable[[list[str]], int]) -> Warm:
        made.append(Warm(tmp_path, job, monkeypatch))
        return made[-1]

    yield make
    for process in made:
        if runs(process.number):
            os.kill(process.number, signal.SIGKILL)
            os.waitpid(process.number, 0)


def waits(arguments: list[str]) -> int:
    """A job that names its process and waits."""
    Path(arguments[1]).write_text(str(os.getpid()))
    signal.pause()
    return 0


def started(process: Warm) -> tuple[int, int]:
    """The processes of a stand-in and of its job, which waits."""
    note = process.folder / "job"
    stand_in = process.start(str(note))
    wait_until(lambda: note.exists() and note.read_text() != "")
    return stand_in, int(note.read_text())


def test_a_job_has_its_arguments_folder_environment_streams_and_exit_code(
    make_warm: Callable[..., Warm], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def job(arguments: list[str]) -> int:
        found = [arguments[1], sys.argv[0], os.getcwd(), os.environ["OF_THE_JOB"], warm.VARIABLE in os.environ]
        print(json.dumps(found), flush=True)
        print("also on standard error", file=sys.stderr)
        return 75

    process = make_warm(job)
    monkeypatch.setenv("OF_THE_JOB", "set after the warm process started")
    monkeypatch.chdir(tmp_path)
    code, output = process.run("x" * 300_000)  # longer than a packet
    found, error = output.splitlines()
    assert code == 75
    assert json.loads(found) == ["x" * 300_000, "nested-reft", str(tmp_path), os.environ["OF_THE_JOB"], False]
    assert error == "also on standard error"


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
        Path(arguments[1]).write_text(str(random.random()))
        wait_until(lambda: all((tmp_path / name).exists() for name in "ab"))  # neither would end alone
        return 0

    process = make_warm(job)
    stand_ins = [process.start(str(tmp_path / name)) for name in "ab"]
    assert [ended(number) for number in stand_ins] == [0, 0]
    assert (tmp_path / "a").read_text() != (tmp_path / "b").read_text()


def test_a_signal_to_the_stand_in_reaches_the_job(make_warm: Callable[..., Warm]) -> None:
    def job(arguments: list[str]) -> int:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        return waits(arguments)

    stand_in, _ = started(make_warm(job))
    os.kill(stand_in, signal.SIGTERM)
    assert ended(stand_in) == 75


def test_ctrl_c_in_a_job(make_warm: Callable[..., Warm]) -> None:
    def job(arguments: list[str]) -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of pytest-xdist ignores it
        try:
            return waits(arguments)
        except KeyboardInterrupt:
            return 130

    stand_in, _ = started(make_warm(job))
    os.kill(stand_in, signal.SIGINT)
    assert ended(stand_in) == 130


def test_a_stand_in_ends_by_the_signal_that_ended_its_job(make_warm: Callable[..., Warm]) -> None:
    stand_in, job = started(make_warm(waits))
    os.kill(job, signal.SIGKILL)
    assert ended(stand_in) == -signal.SIGKILL


def test_a_job_ends_with_its_stand_in(make_warm: Callable[..., Warm]) -> None:
    process = make_warm(waits)
    stand_in, job = started(process)
    os.kill(stand_in, signal.SIGKILL)
    ended(stand_in)
    wait_until(lambda: not runs(job))
    assert runs(process.number)


def test_a_job_ends_with_the_warm_process(make_warm: Callable[..., Warm]) -> None:
    process = make_warm(waits)
    stand_in, job = started(process)
    os.kill(process.number, signal.SIGKILL)
    ended(process.number)
    assert ended(stand_in) == -signal.SIGKILL
    wait_until(lambda: not runs(job))


@pytest.mark.parametrize("value", ["", "off", "nowhere", "stale"])
def test_without_a_warm_process_the_job_runs_in_its_own(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value == "stale":  # of a warm process that was killed
        value = str(tmp_path / "stale")
        with warm.socket.socket(warm.socket.AF_UNIX, warm.socket.SOCK_SEQPACKET) as listener:
            listener.bind(value)
    monkeypatch.setenv(warm.VARIABLE, value)
    assert warm.run_warm(["evaluate"]) is None


def test_what_imports_nothing_heavy_is_not_handed_over(make_warm: Callable[..., Warm]) -> None:
    make_warm(lambda arguments: 9)
    assert warm.run_warm(["check", "--output", "x"]) is None
    assert warm.run_warm([]) is None


def test_packages_are_imported_when_the_first_job_needs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_training.py").touch()
    (tmp_path / "of_figures.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    packages = {"train": ("of_training",), "figure": ("of_figures", "not_installed")}
    names = ("of_training", "of_figures", "not_installed")
    monkeypatch.setattr(cli, "main", lambda arguments: print(*(name for name in names if name in sys.modules)) or 0)
    parent, address = os.getpid(), tmp_path / "socket"
    number = forked(lambda: warm.serve(address, parent, "train", packages))
    try:
        wait_until(address.exists)
        monkeypatch.setenv(warm.VARIABLE, str(address))
        read, write = os.pipe()
        for command in ("train", "figure", "train"):

            def stand_in(command: str = command) -> int | None:
                os.dup2(write, 1)
                return warm.run_warm([command])

            assert ended(forked(stand_in)) == 0
        os.close(write)
        with os.fdopen(read) as output:
            assert output.read().splitlines() == ["of_training", "of_training of_figures", "of_training of_figures"]
    finally:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)


def test_what_is_imported_before_the_fork_exists() -> None:
    """A name that does not is passed over, and each job would import it again."""
    names = {name for packages in warm.PACKAGES.values() for name in packages}
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
        "for name in {name for names in warm.PACKAGES.values() for name in names}: __import__(name)\n"
        "print(sorted(name for name in sys.modules if name.startswith('nested_reft')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['nested_reft', 'nested_reft.runtime', 'nested_reft.runtime.warm']"


def test_the_warm_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    address = tmp_path / "socket"
    code = (
        "import sys, time; from pathlib import Path; from nested_reft.runtime import warm\n"
        "address, log = map(Path, sys.argv[1:])\n"
        "warm.start(address, log, 1, 'figure')\n"
        "while not address.exists(): time.sleep(0.01)"
    )
    subprocess.run([sys.executable, "-c", code, str(address), str(tmp_path / "log")], check=True, timeout=HANG_SECONDS)
    wait_until(lambda: not address.exists())
    assert (tmp_path / "log").read_text() == ""
