"""The warm-up in the DAG: made once, shared by all that comes after it, and shown in tables and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from workflow_harness import Pipeline, tiny_config

from nested_reft.runtime.sources import imported_modules


def warmup_config() -> dict[str, Any]:
    """The tiny experiment after a warm-up on two data sets."""
    settings = tiny_config()
    problems = settings["datasets"]["stories"] | {"problems": 16}
    settings["warmup"] = {
        "datasets": {"solved": problems, "more": problems | {"steps": [2, 2]}},
        "steps": 4, "solutions_per_batch": 4, "learning_rate": 0.001, "layer_drop": 0.2, "checkpoint_every": 2,
    }  # fmt: skip
    return settings


def test_it_is_planned_once_and_evaluated(pipeline: Pipeline) -> None:
    planned = pipeline.dry_run("-p", config=pipeline.write_config(warmup_config()))
    assert planned.jobs["warmup"] == 1
    assert planned.jobs["data"] == 5  # a data set, two benchmarks, two of the warm-up
    assert planned.jobs["evaluate"] == 5  # unmodified, warmed up, three runs
    commands = planned.output.split("nested-reft ")
    for command in ("train", "throughput", "step-speed", "on-policy-gradients", "gradients"):
        started = [text for text in commands if text.startswith(f"{command} ")]
        assert started
        assert all("--policy results/tiny/warmed_up/tiny " in text for text in started)


@pytest.mark.slow
def test_the_whole_experiment_with_a_warmup(pipeline: Pipeline, tmp_path: Path) -> None:
    measured = {"batches": 2, "problems_per_batch": 2, "completions_per_problem": 2, "without_layer_drop": True}
    config = pipeline.write_config(warmup_config() | {"nestability": measured})
    done = pipeline.call(config=config, record=tmp_path / "imports")
    assert done.code == 0, done.output
    results = pipeline.results("tiny")
    manifest = json.loads((results / "warmed_up/tiny.json").read_text(encoding="utf-8"))
    assert [row["step"] for row in manifest["metrics"]] == [1, 2, 3, 4]
    assert (manifest["solutions"], manifest["solutions_right"]) == (32, 32)
    without = json.loads((results / "warmed_up_without_layer_drop/tiny.json").read_text(encoding="utf-8"))
    assert any(row["dropped_layers"] for row in manifest["metrics"])
    assert not any(row["dropped_layers"] for row in without["metrics"])
    nestability = pd.read_csv(results / "tables/nestability_batches.csv")
    # 3 models x (one way at skip 0 and three at 17) x 2 batches
    assert len(nestability) == 24
    assert (results / "figures/nestability.svg").exists()
    assert not list((results / "checkpoints").rglob("*.safetensors"))

    runs = pd.read_csv(results / "tables/runs.csv")
    # 5 models x 2 benchmarks x 2 metrics
    assert len(runs) == 20
    assert list(runs["correction"].unique()) == ["pretrained", "warmed_up", "base", "retrace"]
    table = (results / "tables/accuracy_sampled.md").read_text(encoding="utf-8")
    assert table.index("pre-trained") < table.index("warmed-up") < table.index("baseline ReFT")
    samples = pd.read_csv(results / "tables/samples.csv")
    assert "warmed_up" in set(samples["correction"])

    assert pipeline.call(config=config).jobs == {}
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "imports").iterdir()]
    for command, jobs in (("warmup", 2), ("influence", 3), ("nestability", 12)):
        imported = [set(record["modules"]) for record in records if record["arguments"][0] == command]
        assert len(imported) == jobs
        assert set.union(*imported) <= imported_modules("nested_reft.cli", f"nested_reft.commands.{command}")
    pipeline.edit("training/warmup.py")
    planned = pipeline.dry_run(config=config).jobs
    assert "model" not in planned
    assert (planned["warmup"], planned["train"], planned["evaluate"]) == (2, 3, 4)
