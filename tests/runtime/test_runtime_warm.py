"""Jobs forked from a warm process are what they are in a process of their own, and end when they should."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from warm_harness import HANG_SECONDS, JOB, Warm, ended, exits_when_told, started, wait_until, waits

from nested_reft import cli
from nested_reft.runtime import warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only on Linux")


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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_to_the_client_reaches_the_job(
    make_warm: Callable[..., Warm], number: signal.Signals, code: int
) -> None:
    def job(arguments: list[str]) -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of pytest-xdist ignores it
        try:
            return exits_when_told(arguments)
        except KeyboardInterrupt:
            return 130

    client, _ = started(make_warm(job))
    os.kill(client, number)
    assert ended(client) == code


def test_a_client_ends_by_the_signal_that_ended_its_job(make_warm: Callable[..., Warm]) -> None:
    client, job = started(make_warm(waits))
    os.kill(job, signal.SIGKILL)
    assert ended(client) == -signal.SIGKILL


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
    assert cli.main(["figure", *files, "name"]) == 9
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
