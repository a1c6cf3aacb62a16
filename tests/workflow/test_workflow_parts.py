"""An experiment of some parts alone: what is planned, and what the report then says of all else."""

from __future__ import annotations

import pandas as pd
import pytest
from snakemake.utils import update_config
from workflow_harness import Pipeline, read_config, tiny_config

REPORT_JOBS = {"exact": 1, "settings": 1, "collect": 1, "presentation_tables": 1, "claims": 1}


def test_an_experiment_of_measurements_trains_nothing(pipeline: Pipeline) -> None:
    # 3 sizes, skip 0, and 3 skips x (3 strategies + 2 other borders); two data sets, one of which is a benchmark
    measured = {"data": 2, "model": 3, "check": 1, "influence": 3, "nestability": 3 * (1 + 3 * (3 + 2))}
    report = REPORT_JOBS | {"figure": 3, "page": 1}  # the method, nestability, by size; the settings
    planned = pipeline.dry_run("-p", config="config/nestability.yaml")
    assert planned.jobs == measured | report
    assert "Nestability: 0.5b, pretrained, skip 10 %, uniform, border 4" in planned.messages
    assert "--problems results/nestability/data/train/svamp.jsonl" in planned.output
    settings = read_config("nestability.yaml")
    update_config(settings, read_config("changes/nestability-gsm8k.yaml"))  # what Snakemake does with a second file
    other = pipeline.dry_run("-p", config=pipeline.write_config(settings))
    assert other.jobs == measured | report | {"data": 3}
    asked = [call for call in other.output.split("nested-reft ") if call.startswith("nestability ")]
    assert len(asked) == measured["nestability"]
    assert all("--problems results/nestability_gsm8k/data/train/gsm8k.jsonl" in call for call in asked)


def test_a_part_of_any_experiment_can_be_asked_for(pipeline: Pipeline) -> None:
    planned = pipeline.dry_run("--config", "parts=[throughput]", config="config/smoke.yaml").jobs
    # the method, the rollouts' speed; the settings
    assert planned == REPORT_JOBS | {"data": 3, "model": 1, "check": 1, "throughput": 2, "figure": 2, "page": 1}


@pytest.mark.slow
def test_a_whole_experiment_of_measurements(pipeline: Pipeline) -> None:
    measured = {"batches": 2, "problems_per_batch": 2, "completions_per_problem": 2, "borders": [2]}
    config = pipeline.write_config(
        tiny_config() | {"parts": ["nestability"], "nestability": measured | {"strategies": ["uniform", "least"]}}
    )
    done = pipeline.call(config=config)
    assert done.code == 0, done.output
    results = pipeline.results("tiny")
    assert not {"runs", "evaluations", "throughput", "step_speed", "gradients"} & {p.name for p in results.iterdir()}
    batches = pd.read_csv(results / "tables/nestability_batches.csv", dtype={"skipped_layers": str})
    # skip 0, and at 17 % two strategies and another border, of which 2 of 6 layers are left
    assert list(batches.groupby(["skip", "strategy", "border"]).size()) == [2] * 4
    assert set(batches[batches["border"] == 2]["skipped_layers"]) <= {"2", "3"}
    assert {path.stem for path in (results / "figures").glob("*.png")} == {"method", "nestability"}
    assert set(pd.read_csv(results / "tables/claims.csv")["verdict"]) == {"not run"}
    assert "uniform, border 2" in (results / "tables/nestability.md").read_text(encoding="utf-8")
    assert pipeline.call(config=config).jobs == {}
    # One more choice of layers repeats none.
    more = pipeline.write_config(
        tiny_config()
        | {"parts": ["nestability"], "nestability": measured | {"strategies": ["uniform", "least", "contiguous"]}}
    )
    assert pipeline.dry_run(config=more).jobs["nestability"] == 1
