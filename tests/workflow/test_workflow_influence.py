"""Ablation influence in the DAG: measured once a size, for the runs that read it and for no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from workflow_harness import Pipeline, tiny_config

from nested_reft.config.experiment import parse_config
from nested_reft.config.jobs import influence_stages
from nested_reft.runtime.sources import imported_modules

RUNS = "results/tiny/runs/tiny/stories/retrace"
HALF = f"{RUNS}/skip17-least_half/seed1/metrics.jsonl"


def compared(*strategies: str) -> dict[str, Any]:
    return tiny_config() | {"layer_choice": {"strategies": list(strategies), "skip": 17, "correction": "retrace"}}


def test_it_is_planned_for_the_runs_that_read_it_only(pipeline: Pipeline) -> None:
    config = pipeline.write_config(compared("uniform", "least_half", "least"))
    planned = pipeline.dry_run("-p", config=config)
    assert planned.jobs["influence"] == 1
    assert planned.jobs["train"] == 5
    assert planned.output.count("--influence results/tiny/influence/pretrained/tiny.json") == 2
    assert "influence" not in pipeline.dry_run(f"{RUNS}/skip17/seed1/metrics.jsonl", config=config).jobs
    assert "influence" not in pipeline.dry_run("results/tiny/gradients/tiny/skip17.json", config=config).jobs
    assert pipeline.dry_run(HALF, config=config).jobs["influence"] == 1
    others = compared("uniform", "influence", "static")
    assert "influence" not in pipeline.dry_run(config=pipeline.write_config(others)).jobs
    assert influence_stages(parse_config(compared("uniform", "least_half", "least"))) == ["pretrained"]
    assert not influence_stages(parse_config(others)), "`nested-reft plan` counts it too"


def test_gradients_read_it_if_all_runs_do(pipeline: Pipeline) -> None:
    config = pipeline.write_config(compared("least_half", "uniform"))
    planned = pipeline.dry_run("-p", "results/tiny/gradients/tiny/skip17.json", config=config)
    assert planned.jobs["influence"] == 1
    assert planned.output.count("--influence results/tiny/influence/pretrained/tiny.json") == 1


@pytest.mark.slow
def test_a_run_leaves_out_layers_of_the_measured_half(pipeline: Pipeline, tmp_path: Path) -> None:
    config = pipeline.write_config(compared("uniform", "least_half"))
    done = pipeline.call(HALF, config=config, record=tmp_path / "imports")
    assert done.code == 0, done.output
    record = json.loads((pipeline.results("tiny") / "influence/pretrained/tiny.json").read_text(encoding="utf-8"))
    assert (record["size"], record["problems"], len(record["influence"])) == ("tiny", 64, 6)
    half = set(sorted(range(1, 5), key=record["influence"].__getitem__)[:2])
    rows = [json.loads(line) for line in (pipeline.folder / HALF).read_text(encoding="utf-8").splitlines()]
    assert all(len(row["skipped_layers"]) == 1 and set(row["skipped_layers"]) <= half for row in rows)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "imports").iterdir()]
    (imported,) = (set(record["modules"]) for record in records if record["arguments"][0] == "influence")
    assert imported <= imported_modules("nested_reft.cli", "nested_reft.commands.influence")
    assert pipeline.call(HALF, config=config).jobs == {}
