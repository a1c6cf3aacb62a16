"""Each job of a machine gets its own GPUs: what is visible, how it is locked, and that `on-gpu` passes it on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nested_reft.cli import main
from nested_reft.runtime.gpus import VISIBLE, GpuError, choose_gpus, take_gpus, visible_gpus

ON_GPU = [sys.executable, "-m", "nested_reft", "on-gpu"]


def driver(folder: Path, lines: str, code: int = 0) -> dict[str, str]:
    """An environment whose `nvidia-smi` prints these lines, and nothing else is set."""
    folder.mkdir()
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\nprintf '{lines}'\nexit {code}\n", encoding="utf-8")
    script.chmod(0o755)
    return {"PATH": str(folder)}


def test_the_variable_says_what_is_visible_before_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = driver(tmp_path / "two", "GPU-aa\\nGPU-bb\\n")
    monkeypatch.setenv("PATH", environment["PATH"])
    assert visible_gpus({}) == ["GPU-aa", "GPU-bb"]
    assert visible_gpus({VISIBLE: "3,5"}) == ["3", "5"]
    assert visible_gpus({VISIBLE: ""}) == []
    monkeypatch.setenv("PATH", driver(tmp_path / "broken", "no driver\\n", code=9)["PATH"])
    assert visible_gpus({}) == []
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert visible_gpus({}) is None


def test_nothing_is_locked_where_there_is_nothing_to_choose(tmp_path: Path) -> None:
    for environment in ({VISIBLE: "1"}, {VISIBLE: "GPU-aa"}):  # what Slurm sets for a job with one GPU
        assert choose_gpus(1, environment, tmp_path / "locks") is None
    assert choose_gpus(2, {VISIBLE: "0,1"}, tmp_path / "locks") is None
    assert choose_gpus(0, {VISIBLE: "0,1"}, tmp_path / "locks") is None
    assert not (tmp_path / "locks").exists()


def test_more_than_there_are_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GpuError, match=r"asks for 3 GPU\(s\), but 2 can be seen, by CUDA_VISIBLE_DEVICES='0,1'"):
        choose_gpus(3, {VISIBLE: "0,1"}, tmp_path)


def test_a_taken_gpu_is_not_taken_again_and_what_did_not_suffice_is_given_back(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    assert take_gpus(2, names, tmp_path) == ["a", "b"]
    assert take_gpus(2, names, tmp_path) is None  # and lets go of c
    assert take_gpus(1, names, tmp_path) == ["c"]
    assert take_gpus(1, names, tmp_path) is None


HANG_SECONDS = 600  # only what waits forever takes as long, on any machine


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANG_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def start(command: str, tmp_path: Path, visible: str, *options: str, log: Path | None = None) -> subprocess.Popen[str]:
    environment = os.environ | {VISIBLE: visible, "TMPDIR": str(tmp_path)}
    return subprocess.Popen(
        [*ON_GPU, *(options or ["1"]), "sh", "-c", command],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE if log is None else log.open("w"), text=True,
    )  # fmt: skip


def test_jobs_side_by_side_get_different_gpus_and_the_third_waits(tmp_path: Path) -> None:
    command = f"echo ${VISIBLE}; touch {tmp_path}/started.$$; until [ -e {tmp_path}/go ]; do sleep 0.05; done"
    logs = [tmp_path / f"log{number}" for number in range(3)]
    jobs = [start(command, tmp_path, "4,7,", log=log) for log in logs]

    def waiting() -> int:
        return sum("waiting for 1 of 2 GPUs to be free" in log.read_text(encoding="utf-8") for log in logs)

    wait_until(lambda: len(list(tmp_path.glob("started.*"))) == 2 and waiting() == 1)
    time.sleep(1.5)  # the third tries again each second, and must not start
    assert len(list(tmp_path.glob("started.*"))) == 2
    (tmp_path / "go").touch()
    ended = [job.communicate(timeout=HANG_SECONDS) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0]
    seen = sorted(output.strip() for output, _ in ended)
    assert seen in (["4", "4", "7"], ["4", "7", "7"])
    assert waiting() == 1


def test_a_killed_job_frees_its_gpu_and_a_child_of_it_keeps_it(tmp_path: Path) -> None:
    child = "sleep 3600 & echo $!; wait"
    job = start(child, tmp_path, "0,1")
    assert job.stdout is not None
    number = int(job.stdout.readline())
    locks = tmp_path / f"nested-reft-gpus-{os.getuid()}"
    os.kill(job.pid, signal.SIGKILL)
    assert job.wait(timeout=HANG_SECONDS) == -signal.SIGKILL
    try:
        assert take_gpus(2, ["0", "1"], locks) is None  # the child may still compute
    finally:
        os.kill(number, signal.SIGKILL)
    wait_until(lambda: take_gpus(2, ["0", "1"], locks) is not None)


def test_a_process_for_each_gpu_and_all_see_all(tmp_path: Path) -> None:
    """As torch counts them: each takes the GPU of its local rank."""
    command = f"echo $LOCAL_RANK of $WORLD_SIZE on ${VISIBLE}"
    output, log = start(command, tmp_path, "3,5,6", "--each", "2").communicate(timeout=HANG_SECONDS)
    assert sorted(output.splitlines()) == ["0 of 2 on 3,5", "1 of 2 on 3,5"], log
    job = start(f"{command}; exit 75", tmp_path, "3,5,6", "--each", "1")
    output, log = job.communicate(timeout=HANG_SECONDS)
    assert (output, job.returncode) == ("of on 3\n", 75), log


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["1", "no-such-program"], "no-such-program: no such command"), (["1", "true"], "1 GPU(s), but 0 can be seen")],
)
def test_what_cannot_run_is_said_in_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VISIBLE, "")
    assert main(["on-gpu", *arguments]) == 1
    output = capsys.readouterr().out
    assert output.startswith("nested-reft on-gpu: error: ")
    assert message in output
    assert output.count("\n") == 1


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["on-gpu", "1"])
    assert "which command?" in capsys.readouterr().err
