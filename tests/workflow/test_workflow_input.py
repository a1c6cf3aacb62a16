"""Bad input ends the pipeline early, with one line that names what is wrong and what to do."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workflow_harness import Pipeline, expect_one_line, hub_config, read_config

# --- the configuration ------------------------------------------------------------------------------------------


def changed(path: str, value: Any) -> dict[str, Any]:
    """The smoke experiment with one key set."""
    settings = read_config("smoke.yaml")
    *parents, key = path.split(".")
    place = settings
    for parent in parents:
        place = place[parent]
    place[key] = value
    return settings


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("training.learning_rat", 0.1, "training.learning_rat: unknown key, did you mean 'learning_rate'?"),
        ("skips", [0, 5], "skips: 5 % of the 6 layers of 'tiny' rounds to no layer"),
        ("training.steps", 0, "training.steps: input should be greater than or equal to 1, got 0"),
    ],
)
def test_a_bad_configuration_is_named_before_any_job(pipeline: Pipeline, path: str, value: Any, message: str) -> None:
    config = pipeline.write_config(changed(path, value))
    done = pipeline.call(config=config)
    assert done.code != 0
    lines = [line for line in done.output.splitlines() if message in line]
    assert len(lines) == 1, done.output
    assert config in lines[0]
    assert "Traceback" not in done.output
    assert not (pipeline.folder / "results").exists()


def test_what_the_command_line_says_changes_the_default_and_is_named(pipeline: Pipeline) -> None:
    planned = pipeline.dry_run("--config", "experiment=mine", "seeds=[3]")
    assert planned.jobs["train"] == pipeline.dry_run().jobs["train"] / len(read_config("config.yaml")["seeds"])
    assert "results/mine/" in pipeline.dry_run("-p", "--config", "experiment=mine").output
    done = pipeline.call("-n", "--config", "experiment=mine", "seeds=3")
    assert done.code != 0
    assert "--config: seeds: must be a list, in brackets, got 3" in done.output.splitlines()


def test_a_json_configuration_may_be_indented_with_tabs(pipeline: Pipeline) -> None:
    (pipeline.folder / "my.json").write_text(json.dumps(read_config("smoke.yaml"), indent="\t"), encoding="utf-8")
    assert pipeline.dry_run(config="my.json").jobs == pipeline.dry_run(config="config/smoke.yaml").jobs


# --- what a machine lacks -----------------------------------------------------------------------------------------


LACKED = {
    "device": ("cuda", "torch sees no GPU; check the driver and CUDA_VISIBLE_DEVICES, or set `device: cpu`"),
    "rollout_engine": ("vllm", "pip install 'nested-reft[vllm]' (docs/vllm.md), or set `rollout_engine: torch`"),
}


@pytest.mark.parametrize("key", LACKED)
def test_jobs_are_not_started_without_what_some_of_them_need(pipeline: Pipeline, key: str) -> None:
    """A GPU (the harness hides all), or vLLM. Not even the data, which need none, unless they alone are asked for."""
    value, remedy = LACKED[key]
    if importlib.util.find_spec(value):
        pytest.skip(f"{value} is installed")
    config = pipeline.write_config(changed(key, value))
    assert sum(pipeline.dry_run(config=config).jobs.values()) > 40
    done = pipeline.call(config=config)
    assert done.code != 0
    (line,) = (line for line in done.output.splitlines() if line.startswith(f"{key}: '{value}' "))
    assert remedy in line
    assert "Traceback" not in done.output
    assert not (pipeline.folder / "results").exists()
    done = pipeline.call("results/smoke/data/test/heldout.jsonl", config=config)
    assert done.code == 0, done.output


# --- data sets and models ---------------------------------------------------------------------------------------


def test_everything_there_passes_the_check(pipeline: Pipeline, small_mirror: Path) -> None:
    config = pipeline.write_config(hub_config())
    done = pipeline.call("results/hub/data/checked.json", config=config, mirror=small_mirror)
    assert done.code == 0, done.output
    sources = json.loads((pipeline.results("hub") / "data/checked.json").read_text(encoding="utf-8"))
    assert [(source["role"], source["name"]) for source in sources] == [
        ("train", "first"), ("train", "second"), ("test", "bench"), ("model", "m"),
    ]  # fmt: skip


def test_a_new_data_set_is_one_entry_of_the_configuration(pipeline: Pipeline, small_mirror: Path) -> None:
    settings = hub_config()
    settings["datasets"]["new"] = {
        "source": "hub", "repo": "someone/new.set", "name": "hard", "split": "validation",
        "question": ["story", "task"], "answer": ["final", "solution"], "answer_pattern": r"The answer is (\S+)\.",
    }  # fmt: skip
    folder = small_mirror / "someone/new.set/hard"
    folder.mkdir(parents=True)
    rows = [
        {"story": "A hen lays 2 eggs a day.", "task": "How many in 3 days?", "solution": "2 * 3 = 6. The answer is 6."},
        {"story": "", "task": "1 + 1?", "solution": "The answer is 2.", "note": None},
    ]
    (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    target = "results/hub/data/train/new.jsonl"
    done = pipeline.call(target, config=pipeline.write_config(settings), mirror=small_mirror)
    assert done.code == 0, done.output
    problems = [json.loads(line) for line in (pipeline.folder / target).read_text(encoding="utf-8").splitlines()]
    assert problems == [
        {"id": "validation-0", "question": "A hen lays 2 eggs a day. How many in 3 days?", "answer": "6"},
        {"id": "validation-1", "question": "1 + 1?", "answer": "2"},
    ]


# What is wrong in the mirror, and the sub-command that says so in one line.
DAMAGE: dict[str, tuple[Callable[[Path], object], str, list[str]]] = {
    "no data": (
        lambda mirror: (mirror / "owner/second/train.jsonl").unlink(),
        "fetch-data",
        ["owner/second/train.jsonl", "no such file", "put it there, or unset"],
    ),
    "half a row": (
        lambda mirror: (mirror / "owner/second/train.jsonl").write_text('{"question": "What', encoding="utf-8"),
        "fetch-data",
        ["owner/second/train.jsonl, line 1: is not JSON", "fetch it again"],
    ),
    "no model": (
        lambda mirror: shutil.rmtree(mirror / "owner/model"),
        "fetch-model",
        ["owner/model: no such model folder", "put it there, or unset"],
    ),
    "other layers": (
        lambda mirror: (mirror / "owner/model/config.json").write_text('{"num_hidden_layers": 28}', encoding="utf-8"),
        "fetch-model",
        ["owner/model: has 28 layers", "`layers: 6`"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_wrong_in_the_mirror_stops_all_training(pipeline: Pipeline, small_mirror: Path, damage: str) -> None:
    """Only one of two data sets is bad: the other's runs do not start either."""
    spoil, command, parts = DAMAGE[damage]
    spoil(small_mirror)
    done = pipeline.call(config=pipeline.write_config(hub_config()), mirror=small_mirror)
    expect_one_line(pipeline, done, command, *parts)


def test_a_model_of_another_shape_stops_all_training(pipeline: Pipeline, small_mirror: Path) -> None:
    model = {
        "model_type": "qwen2", "num_hidden_layers": 6, "hidden_size": 8, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 16, "vocab_size": 99, "tie_word_embeddings": False,
    }  # fmt: skip
    (small_mirror / "owner/model/config.json").write_text(json.dumps(model), encoding="utf-8")
    settings = hub_config()
    settings["sizes"]["m"]["shape"] = {
        "width": 8, "heads": 2, "key_value_heads": 1, "feed_forward": 16, "vocabulary": 99, "tied": True,
    }  # fmt: skip
    done = pipeline.call("results/hub/data/checked.json", config=pipeline.write_config(settings), mirror=small_mirror)
    expect_one_line(pipeline, done, "check", "sizes.m.shape.tied: is true, but tie_word_embeddings", "is false")


def test_a_missing_mirror_folder_is_named(pipeline: Pipeline, tmp_path: Path) -> None:
    target = "results/hub/data/train/first.jsonl"
    done = pipeline.call(target, config=pipeline.write_config(hub_config()), mirror=tmp_path / "nowhere")
    expect_one_line(pipeline, done, "fetch-data", "NESTED_REFT_DATA_MIRROR=", "nowhere: no such folder", "unset it")


def test_without_network_and_mirror_the_call_ends_by_itself(pipeline: Pipeline) -> None:
    target = "results/hub/data/train/first.jsonl"
    done = pipeline.call(target, config=pipeline.write_config(hub_config()))
    expect_one_line(pipeline, done, "fetch-data", "owner/first", "check the network, or set NESTED_REFT_DATA_MIRROR")
    assert "hf download --repo-type dataset owner/first --revision main" in done.output  # the harness is offline
