"""What the DAG of each configuration holds, before anything runs: no network, no GPU."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from workflow_harness import ROOT, Pipeline, hub_config, hub_source, read_config

from nested_reft.report.registry import FIGURES, PAGES

REPORT_JOBS = {
    "exact": 1, "settings": 1, "collect": 1, "presentation_tables": 1, "claims": 1, "figure": len(FIGURES),
    "page": len(PAGES),
}  # fmt: skip
TRAINED = {"data", "model", "check", "train"}
MEASURED = TRAINED | {
    "evaluate", "throughput", "step_speed", "on_policy_gradients", "gradients", "completion_gradients", "influence",
    "nestability",
}  # fmt: skip


def test_snakemake_finds_nothing_to_lint(pipeline: Pipeline) -> None:
    done = pipeline.call("--lint")
    assert done.code == 0, done.output
    assert "Congratulations" in done.output


def test_the_workflow_is_formatted() -> None:
    snakefmt = Path(sys.executable).with_name("snakefmt")
    done = subprocess.run([snakefmt, "--check", "workflow"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_default_experiment_has_its_jobs(pipeline: Pipeline) -> None:
    # 2 sizes x (1 baseline + 3 skips x 3 corrections + 2 other strategies) x 4 seeds; all benchmarks in one job; speed
    # of rollouts at 4 skips, 0 among them, of steps and gradients at 3
    planned = pipeline.dry_run("-p")
    assert planned.jobs == REPORT_JOBS | {
        "figure": len(FIGURES) - 4,  # nestability, by size too, behaviours and completions are not asked for
        "data": 6, "model": 2, "check": 1, "train": 96, "evaluate": 98, "throughput": 8, "step_speed": 6,
        "on_policy_gradients": 2, "gradients": 6,
    }  # fmt: skip
    assert "results/laptop/" in planned.output
    assert "--options='' 2>" in planned.output  # the commands in the claims table need none
    assert not pipeline.results("laptop").exists()


def test_the_papers_experiment_has_its_jobs(pipeline: Pipeline) -> None:
    # 2 sizes x 3 data sets x (1 baseline + 3 skips x 3 corrections) x 3 seeds; a job for each benchmark
    planned = pipeline.dry_run(config="config/paper.yaml")
    evaluations = {f"evaluate_{name}": 182 for name in ("aime_2024", "amc_2023", "math_500", "minerva_math")}
    assert planned.jobs == REPORT_JOBS | evaluations | {
        "figure": len(FIGURES) - 5,  # nor are other strategies
        "data": 8, "model": 2, "check": 1, "train": 180, "evaluate_olympiadbench": 182, "throughput": 8,
        "step_speed": 6, "on_policy_gradients": 2, "gradients": 6,
    }  # fmt: skip


def test_every_job_says_what_it_is_and_why(pipeline: Pipeline) -> None:
    planned = pipeline.dry_run("-p", config="config/smoke.yaml")
    assert planned.jobs == REPORT_JOBS | {
        "figure": len(FIGURES) - 1,  # one size
        "data": 3, "model": 1, "check": 1, "train": 12, "evaluate": 13, "throughput": 2, "step_speed": 1,
        "on_policy_gradients": 1, "gradients": 1, "completion_gradients": 1, "influence": 1,
        "nestability": 4,
    }  # fmt: skip
    assert "Train: tiny, stories, retrace, skip17, seed 2" in planned.messages
    assert "Train: tiny, stories, retrace, skip17-influence, seed 2" in planned.messages
    assert "Gradients, bias and variance: tiny, skip 17 %" in planned.messages
    assert "Throughput, alone on the machine: tiny, skip 17 %" in planned.messages
    assert "Whole steps, alone on the machine: tiny, skip 17 %" in planned.messages
    assert len(planned.messages) == sum(planned.jobs.values())
    assert "Reason:" not in planned.output  # that of `collect` is thousands of words
    reasons = pipeline.dry_run("--quiet", "host", config="config/smoke.yaml").output  # in place of the profile's
    assert reasons.count("Reason: Missing output files") == sum(planned.jobs.values())
    assert "--options='--configfile config/smoke.yaml' 2>" in planned.output
    assert "laptop" not in planned.output  # the default experiment's file is not merged into this one


def test_why_jobs_run_is_said_in_a_few_lines(pipeline: Pipeline) -> None:
    """The command that README gives for it."""
    output = pipeline.dry_run("--quiet", "rules", config="config/smoke.yaml").output
    reasons = output.partition("Reasons:")[2]
    assert {*REPORT_JOBS, "data", "model", "train"} <= set(re.findall(r"\w+", reasons))
    assert "output files have to be generated" in reasons
    assert len(output.splitlines()) < 80


@pytest.mark.parametrize(
    ("target", "jobs"),
    [
        ("figures", MEASURED | {"exact", "settings", "collect", "figure"}),
        ("tables", MEASURED | REPORT_JOBS.keys() - {"figure", "page"}),
        ("results/smoke/data/train/stories.jsonl", {"data"}),
        ("results/smoke/throughput/tiny/skip17.json", {"data", "model", "check", "throughput"}),
        ("results/smoke/gradients/tiny/skip17.json", {"data", "model", "check", "on_policy_gradients", "gradients"}),
        ("results/smoke/exact.json", {"exact"}),
        ("results/smoke/runs/tiny/stories/unit/skip17/seed2/metrics.jsonl", {"data", "model", "check", "train"}),
        (
            "results/smoke/runs/tiny/stories/retrace/skip17-static/seed2/metrics.jsonl",
            {"data", "model", "check", "train"},
        ),
    ],
)
def test_a_target_needs_only_its_own_jobs(pipeline: Pipeline, target: str, jobs: set[str]) -> None:
    planned = pipeline.dry_run(target, config="config/smoke.yaml").jobs
    planned.pop(target, None)
    assert set(planned) == jobs
    if target.startswith("results"):
        assert planned.get("train", 1) == 1


def test_a_run_that_is_not_in_the_table_is_refused(pipeline: Pipeline) -> None:
    done = pipeline.call(
        "-n", "results/smoke/runs/tiny/stories/unit/skip0/seed1/metrics.jsonl", config="config/smoke.yaml"
    )
    assert done.code != 0
    assert "skip 0 is the baseline and has one correction" in done.output
    done = pipeline.call(
        "-n", "results/smoke/runs/tiny/stories/unit/skip17/seed9/metrics.jsonl", config="config/smoke.yaml"
    )
    assert done.code != 0
    assert "Traceback" not in done.output


@pytest.mark.parametrize(("visible", "device"), [("", "cpu"), ("0", "cuda")])
def test_auto_asks_for_a_gpu_if_there_is_one(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, visible: str, device: str
) -> None:
    environment = pipeline.environment(None) | {"CUDA_VISIBLE_DEVICES": visible}
    monkeypatch.setattr(Pipeline, "environment", lambda self, mirror: environment)
    settings = read_config("smoke.yaml") | {"device": "auto"}
    planned = pipeline.dry_run("-p", config=pipeline.write_config(settings)).output
    trained = planned.split("nested-reft train ")[1:]
    assert trained
    assert all(f'"device":"{device}"' in text.partition("--threads")[0] for text in trained)
    assert ("nested-reft on-gpu --each 1 nested-reft train" in planned) == (device == "cuda")


def test_braces_in_a_configuration_are_text(pipeline: Pipeline) -> None:
    settings = hub_config()
    settings["datasets"]["first"]["answer_pattern"] = r"(\d{1,3})"
    solved = hub_source("first", "train") | {"solution": "{question} = {answer}"}
    settings["warmup"] = {"datasets": {"a": solved}, "steps": 1, "solutions_per_batch": 1, "learning_rate": 0.1}
    planned = pipeline.dry_run("-p", "--config", "prompt={style: plain}", config=pipeline.write_config(settings)).output
    assert '"solution":"{question} = {answer}"' in planned
    assert "prompt={style: plain}" in planned.partition("nested-reft claims ")[2]
