"""A training run that is killed continues from its checkpoint when Snakemake is called again."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from workflow_harness import Pipeline, tiny_config

RUN = "tiny/stories/retrace/skip17/seed1"
STEPS = 60


def config() -> dict[str, Any]:
    """One checkpoint per step, and enough steps to be killed in between."""
    settings = tiny_config()
    settings["training"] |= {"steps": STEPS, "checkpoint_every": 1}
    return settings


def wait_for_checkpoint(pipeline: Pipeline, process: subprocess.Popen[bytes]) -> Path:
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        assert process.poll() is None, "the call ended before its first checkpoint was seen"
        found = list((pipeline.results("tiny") / "checkpoints").glob("*/step*.json"))
        if found:
            return found[0]
        time.sleep(0.02)
    raise AssertionError("no checkpoint in fifteen minutes")


def training_process(pipeline: Pipeline) -> int:
    """The process of this pipeline's `nested-reft train`."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            here = (folder / "cwd").resolve() == pipeline.folder.resolve()
        except OSError:
            continue
        if here and "train" in words and any(word.endswith("nested-reft") for word in words):
            return int(folder.name)
    raise AssertionError("no training process was found")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for the process in /proc")
@pytest.mark.parametrize("victim", ["job", "everything"])
def test_a_killed_run_continues(pipeline: Pipeline, victim: str) -> None:
    """`job`: only the training process, as for lack of memory; `everything`: Snakemake too, as in a power cut."""
    metrics = f"results/tiny/runs/{RUN}/metrics.jsonl"
    path = pipeline.write_config(config())
    with subprocess.Popen(
        pipeline.command(metrics, config=path),
        cwd=pipeline.folder,
        env=pipeline.environment(None),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            checkpoint = wait_for_checkpoint(pipeline, process)
            if victim == "everything":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                os.kill(training_process(pipeline), signal.SIGKILL)
            assert process.wait(timeout=900) != 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert list(checkpoint.parent.glob("step*.safetensors"))
    assert not (pipeline.folder / metrics).exists()

    if victim == "everything":
        assert pipeline.call("--unlock", config=path).code == 0
    again = pipeline.call(metrics, config=path)
    assert again.code == 0, again.output
    assert again.jobs == {"train": 1}
    log = (pipeline.results("tiny") / f"logs/train/{RUN}.log").read_text(encoding="utf-8")
    assert "continues after step" in log
    rows = [json.loads(line) for line in (pipeline.folder / metrics).read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert not checkpoint.parent.exists()


@pytest.mark.parametrize("start", [[], ["-s", "workflow/Snakefile"], ["--profile", "workflow/profiles/one-gpu"]])
def test_a_job_whose_end_snakemake_did_not_see_runs_again(pipeline: Pipeline, start: list[str]) -> None:
    """After two Ctrl-C its results may be half written; a note that Snakemake has left says so."""
    target = "results/smoke/data/test/heldout.jsonl"
    config = "config/smoke.yaml"
    assert pipeline.call(target, config=config).code == 0
    assert pipeline.dry_run(target, *start, config=config).jobs == {}
    note = pipeline.folder / ".snakemake/incomplete" / base64.b64encode(target.encode()).decode()
    note.parent.mkdir(exist_ok=True)
    note.touch()
    assert pipeline.dry_run(target, *start, config=config).jobs == {"data": 1}
