"""The pipeline through the Slurm profile and a real Slurm: results as here, failures told, retries with more."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from same_tables import assert_same_tables
from workflow_harness import Call, Pipeline, read_config

pytestmark = pytest.mark.slow

# What a site sets: this one has no accounting database, and jobs of seconds.
SITE = ("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "20")
RUN = "results/smoke/runs/tiny/stories/base/skip0/seed1"


def submit(pipeline: Pipeline, *arguments: str, settings: dict[str, Any]) -> Call:
    profile = ("--profile", "workflow/profiles/slurm")
    return pipeline.call(*profile, *SITE, *arguments, config=pipeline.write_config(settings), timeout=1800)


def jobs_of(output: str) -> dict[str, list[dict[str, str]]]:
    """What Slurm knows of the submitted jobs, by rule: state, memory, limit and GPUs."""
    found: dict[str, list[dict[str, str]]] = {}
    for number, log in re.findall(r"SLURM jobid (\d+) \(log: (.*?)\)", output):
        fields = "State:|,MinMemory:|,TimeLimit:|,tres-per-job:|"
        asked = ["squeue", "--noheader", "--states=all", f"--jobs={number}", f"--Format={fields}"]
        line = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        state, memory, limit, gpus, _ = line.split("|")
        rule = re.search(r"slurm_logs/rule_(\w+)/", log)
        assert rule
        job = {"state": state, "memory": memory, "limit": limit, "gpus": gpus}
        found.setdefault(rule[1], []).append(job)
    return found


def test_the_tables_are_those_of_a_local_run(tmp_path: Path) -> None:
    settings = read_config("smoke.yaml") | {"seeds": [1]}
    settings["sizes"]["tiny"]["pretraining_steps"] = 20
    there, here = (Pipeline.copied_to(tmp_path / name) for name in ("slurm", "local"))
    done = submit(there, "tables", settings=settings)
    assert done.code == 0, done.output[-6000:]
    jobs = jobs_of(done.output)
    assert {rule: len(found) for rule, found in jobs.items()} == {
        "data": 3, "model": 1, "exact": 1, "train": 6, "evaluate": 7, "throughput": 2, "step_speed": 1,
        "on_policy_gradients": 1, "gradients": 1, "collect": 1, "presentation_tables": 1, "claims": 1,
    }  # fmt: skip
    assert {job["state"] for found in jobs.values() for job in found} == {"COMPLETED"}
    assert {(job["memory"], job["limit"]) for job in jobs["train"]} == {("3000M", "2:00:00")}
    local = here.call("tables", config=here.write_config(settings), timeout=1800)
    assert local.code == 0, local.output[-6000:]
    assert_same_tables(there.results("smoke") / "tables", here.results("smoke") / "tables")


def test_a_job_that_fails_is_told_with_its_log(tmp_path: Path) -> None:
    """The machine that submits has no GPU, and need not; the node has none either, and says so."""
    pipeline = Pipeline.copied_to(tmp_path)
    settings = read_config("smoke.yaml") | {"device": "cuda", "resources": {"tiny": {"model": {"gpu": 2}}}}
    target = "results/smoke/models/tiny"
    done = submit(pipeline, target, "--retries", "0", settings=settings)
    assert done.code != 0
    (job,) = jobs_of(done.output)["model"]
    assert job["state"] == "FAILED"
    assert job["gpus"].endswith("gpu:2")
    message = "device: 'cuda' was asked for, but torch sees no GPU"
    assert message in (pipeline.folder / "results/smoke/logs/models/tiny.log").read_text(encoding="utf-8")
    assert "results/smoke/logs/models/tiny.log" in done.output
    assert f"nested-reft pretrain: error: {message}" in done.output  # what is in the log
    (log,) = (pipeline.folder / ".snakemake/slurm_logs/rule_model").rglob("*.log")
    assert str(log) in done.output


def test_jobs_beyond_their_memory_or_time_are_retried_with_more_and_training_goes_on(tmp_path: Path) -> None:
    pipeline = Pipeline.copied_to(tmp_path)
    trainer = pipeline.folder / "src/nested_reft/training/run.py"
    slow = "\n_step = reft_step\n\n\ndef reft_step(*arguments, **options):\n    time.sleep(0.5)\n"
    slow += "    return _step(*arguments, **options)\n"
    trainer.write_text(trainer.read_text(encoding="utf-8") + slow, encoding="utf-8")
    settings = read_config("smoke.yaml")
    settings["training"] |= {"steps": 200, "checkpoint_every": 1000}  # 100 s of sleep alone
    settings["resources"] = {"tiny": {"model": {"mem_mb": 350}, "train": {"runtime": 1}}}
    done = submit(pipeline, f"{RUN}/metrics.jsonl", settings=settings)
    assert done.code == 0, done.output[-6000:]
    jobs = jobs_of(done.output)

    memory = [int(job["memory"].removesuffix("M")) for job in jobs["model"]]
    assert memory == [350 * number for number in range(1, len(memory) + 1)]
    assert len(memory) > 1
    assert [job["state"] == "COMPLETED" for job in jobs["model"]] == [False] * (len(memory) - 1) + [True]

    limits = [job["limit"] for job in jobs["train"]]
    assert limits in (["1:00", "2:00"], ["1:00", "2:00", "3:00"])  # the third on a machine with much else to do
    assert [job["state"] for job in jobs["train"]] == ["TIMEOUT"] * (len(limits) - 1) + ["COMPLETED"]
    # Slurm's SIGTERM had the step in hand finished and saved: there is no other checkpoint to go on from.
    log = (pipeline.results("smoke") / "logs/train/tiny/stories/base/skip0/seed1.log").read_text(encoding="utf-8")
    continued = re.search(r"continues after step (\d+)", log)
    assert continued, log
    assert int(continued[1]) > 1
    rows = (pipeline.folder / RUN / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["step"] for row in rows] == list(range(1, 201))
