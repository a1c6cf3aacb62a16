"""What jobs ask for of a scheduler: by size and kind, more at each try; and that the profiles say what they mean."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from workflow_harness import ROOT, Pipeline, read_config

PROFILES = ROOT / "workflow/profiles"
ASKED = "echo {resources.gpu} {resources.mem_mb} {resources.runtime}"

# They share a rule's body.
MEASUREMENTS = ("throughput", "step-speed", "gradients")


def settings(device: str) -> dict[str, Any]:
    """The smoke experiment, whose runs have their own requests."""
    found = read_config("smoke.yaml")
    found["device"] = device
    found["resources"] = {"tiny": {"train": {"gpu": 2, "mem_mb": 700, "runtime": 7}}}
    return found


def start_with(pipeline: Pipeline, kind: str, commands: str) -> None:
    """Have the rule that calls this sub-command run these commands first."""
    called = "{params.command}" if kind in ("data", "model", "measure") else kind
    path = pipeline.folder / f"workflow/rules/{kind}.smk"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f'"nested-reft {called} ', f'"{commands}; nested-reft {called} '))


def tell(pipeline: Pipeline, kind: str, then: str = "") -> None:
    """Have the rule of this kind start with a command that shows what its jobs ask for."""
    if kind in MEASUREMENTS:
        start_with(pipeline, "measure", f"{ASKED} {{params.command}}{then}")
    else:
        start_with(pipeline, kind, f"{ASKED} {kind}{then}")


def test_jobs_ask_for_what_the_config_says_and_for_the_defaults_elsewhere(pipeline: Pipeline) -> None:
    counts = {"model": 1, "train": 12, "evaluate": 13, "throughput": 2, "step-speed": 1, "gradients": 1}
    commands = pipeline.dry_run("-p", config=pipeline.write_config(settings("cuda"))).output
    for kind, count in counts.items():
        gpus = {"train": "--each 2", "step-speed": "--each 1"}.get(kind, "1")
        command = "pretrain" if kind == "model" else kind
        assert commands.count(f"nested-reft on-gpu {gpus} nested-reft {command} ") == count
        tell(pipeline, kind)
    for device, (trained, others) in (("cuda", (2, 1)), ("cpu", (0, 0))):
        output = pipeline.dry_run("-p", config=pipeline.write_config(settings(device))).output
        found = {kind: set(re.findall(rf"echo (\d+ \d+ \d+) {kind};", output)) for kind in counts}
        assert found.pop("train") == {f"{trained} 700 7"}
        assert found == {kind: {f"{others} 3000 120"} for kind in counts if kind != "train"}
    assert "on-gpu" not in output  # on a CPU


def test_a_job_that_failed_asks_for_more(pipeline: Pipeline) -> None:
    tell(pipeline, "model", " >> tries.txt; exit 1")
    config = pipeline.write_config(settings("cpu"))
    done = pipeline.call("results/smoke/models/tiny", "--retries", "2", config=config)
    assert done.code != 0
    tries = (pipeline.folder / "tries.txt").read_text(encoding="utf-8").splitlines()
    assert tries == ["0 3000 120 model", "0 6000 240 model", "0 9000 360 model"]


@pytest.mark.slow
def test_snakemake_looks_for_jobs_less_often_than_by_its_default(pipeline: Pipeline) -> None:
    start_with(pipeline, "data", "sleep 4; touch {output}; exit 0")
    files = [f"results/smoke/data/{name}.jsonl" for name in ("test/heldout", "test/steps")]  # one waits for the other
    arguments = [*files, "--force", "--cores", "1", "--verbose"]
    done = pipeline.call(*arguments, config=pipeline.write_config(settings("cpu")))
    assert done.code == 0, done.output
    default = pipeline.call(*arguments, "--max-jobs-per-timespan", "100/1s", config="config/test.yaml")
    assert 2 <= done.output.count("Ready jobs: ") <= 4 < default.output.count("Ready jobs: ")


@pytest.mark.slow
def test_a_changed_resource_reruns_nothing(pipeline: Pipeline) -> None:
    config = pipeline.write_config(settings("cpu"))
    first = pipeline.call("results/smoke/exact.json", "results/smoke/data/test/heldout.jsonl", config=config)
    assert first.code == 0, first.output
    changed = settings("cpu")
    changed["resources"]["tiny"]["train"]["mem_mb"] = 900
    pipeline.write_config(changed)
    again = pipeline.dry_run("results/smoke/exact.json", "results/smoke/data/test/heldout.jsonl", config=config)
    assert again.jobs == {}


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*/profile.yaml")), ids=lambda path: path.parent.name)
def test_every_setting_of_a_profile_is_explained(path: Any) -> None:
    text = path.read_text(encoding="utf-8")
    for paragraph in text.strip().split("\n\n"):
        lines = paragraph.splitlines()
        assert lines[0].startswith("# ") or lines[1].startswith("  # "), paragraph
    defaults = yaml.safe_load(text).get("default-resources", {})
    assert not {"slurm_partition", "slurm_account"} & defaults.keys()


def test_rules_name_no_partition_and_no_account() -> None:
    for path in (ROOT / "workflow").rglob("*.smk"):
        assert not re.search(r"slurm|partition|account", path.read_text(encoding="utf-8")), path
