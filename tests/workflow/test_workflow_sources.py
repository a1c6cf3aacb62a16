"""A rule's inputs name the source files that its result depends on: what its job really imports, and no drawing code
where nothing is drawn.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from workflow_harness import ROOT, Finished

from nested_reft.config.rollout_engine import Vllm, engine_modules
from nested_reft.report.registry import FIGURES, PAGES
from nested_reft.runtime.sources import source_digest, source_files

PACKAGE = ROOT / "src/nested_reft"
# The sub-commands of the smallest experiment, and the rules whose jobs they are.
RULES = {
    "generate": "data", "check": "check", "pretrain": "model", "train": "train", "evaluate": "evaluate",
    "throughput": "throughput", "step-speed": "step_speed", "on-policy-gradients": "on_policy_gradients",
    "gradients": "gradients", "completion-gradients": "completion_gradients", "exact": "exact", "collect": "collect",
    "tables": "presentation_tables", "claims": "claims", "figure": "figure", "page": "page",
}  # fmt: skip
MAKE_RESULTS = (
    "data", "check", "model", "train", "evaluate", "throughput", "step_speed", "on_policy_gradients", "gradients",
    "completion_gradients", "exact",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One process of the experiment: its sub-command (with the name of a figure or page), and its modules of ours."""

    command: str
    name: str | None
    modules: frozenset[str]


def jobs(finished: Finished) -> Iterator[Job]:
    for path in finished.imports.glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        command, *rest = record["arguments"]
        if command in RULES:
            yield Job(command, rest[0] if command in ("figure", "page") else None, frozenset(record["modules"]))


def inputs(finished: Finished) -> dict[tuple[str, str], set[str]]:
    """The source files among the inputs of each output, by rule and output, as Snakemake lists them."""
    listed = finished.pipeline.call("--detailed-summary", config=finished.config).output
    table = csv.DictReader(listed[listed.index("output_file\t") :].splitlines(), delimiter="\t")
    return {
        (row["rule"].split("_bench")[0], row["output_file"]): {
            name.removeprefix("src/nested_reft/")
            for name in row["input-file(s)"].split(",")
            if name.startswith("src/nested_reft/")
        }
        for row in table
        if row["rule"] and row["rule"] != "-"
    }


def file_of(module: str) -> str:
    path = module.replace(".", "/").partition("nested_reft")[2].lstrip("/")
    return f"{path}/__init__.py".lstrip("/") if (PACKAGE / path).is_dir() else f"{path}.py"


@pytest.mark.slow
def test_every_module_that_a_job_imports_is_an_input_of_its_rule(finished: Finished) -> None:
    listed, seen = inputs(finished), set()
    for job in jobs(finished):
        rule = RULES[job.command]
        outputs = [out for of, out in listed if of == rule and (job.name is None or Path(out).stem == job.name)]
        assert outputs, f"no output of {job}"
        for output in outputs:
            missing = {file_of(module) for module in job.modules} - listed[rule, output]
            assert missing == set(), f"{rule}: {output}"
        seen.add(job.command)
    assert seen == RULES.keys(), "some kind of job left no record"


@pytest.mark.slow
def test_no_job_that_makes_results_depends_on_drawing_code(finished: Finished) -> None:
    for (rule, output), files in inputs(finished).items():
        if rule in MAKE_RESULTS:
            assert files, output
            assert [name for name in files if name.startswith(("report/", "planning/"))] == [], output


def test_training_depends_on_the_method_and_what_runs_it() -> None:
    files = {path.relative_to(PACKAGE).as_posix() for path in source_files("nested_reft.commands.train")}
    assert {"core/loss.py", "engine/llama.py", "training/step.py", "grading/worker.py", "runtime/seeding.py",
            "__init__.py", "core/__init__.py"} <= files  # fmt: skip
    assert not {"core/__main__.py", "training/pretrain.py", "evaluation/exact.py", "data/hub.py"} & files


def test_what_torch_samples_does_not_depend_on_vllm_s_code() -> None:
    """The rules name that module for `rollout_engine: vllm`; its job imports it by name."""
    code = {"rollouts/vllm_sampler.py", "integrations/vllm.py", "integrations/vllm_worker.py"}
    for command in ("nested_reft.commands.train", "nested_reft.commands.evaluate"):
        for vllm, expected in ((None, set()), (Vllm(), code)):
            files = {path.relative_to(PACKAGE).as_posix() for path in source_files(command, *engine_modules(vllm))}
            assert files & code == expected


def test_a_figure_depends_on_its_own_module_and_a_page_on_its_templates() -> None:
    speed, learning = (
        {path.name for path in source_files("nested_reft.commands.figure", FIGURES[name].module)}
        for name in ("throughput", "reward")
    )
    assert "speed.py" in speed - learning
    assert "learning.py" in learning - speed
    page = {path.name for path in source_files("nested_reft.commands.page", PAGES["samples"].module)}
    assert {"runs.py", "html.py", "samples.html", "base.html"} <= page


def test_modules_that_run_as_scripts_are_known() -> None:
    """Nothing imports them, so the import graph by itself would leave them out."""
    scripts = {
        path
        for path in PACKAGE.rglob("*.py")
        if re.search(r'^if __name__ == "__main__":', path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert scripts == {PACKAGE / "grading/worker.py"} <= {*source_files("nested_reft.grading.grader")}


def test_a_module_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"there is no module nested_reft\.commands\.tain"):
        source_files("nested_reft.commands.tain")


def test_a_changed_source_changes_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is part of a checkpoint: a run that other code began is not continued."""
    before = source_digest("nested_reft.commands.train")
    assert source_digest("nested_reft.commands.train") == before != source_digest("nested_reft.commands.evaluate")
    shutil.copytree(PACKAGE, tmp_path / "nested_reft")
    monkeypatch.setattr("nested_reft.runtime.sources.ROOT", tmp_path / "nested_reft")
    assert source_digest("nested_reft.commands.train") == before, "it depends on where the code is"
    with (tmp_path / "nested_reft/report/figures/style.py").open("a") as other:
        other.write("# edited\n")
    assert source_digest("nested_reft.commands.train") == before
    with (tmp_path / "nested_reft/core/loss.py").open("a") as loss:
        loss.write("# edited\n")
    assert source_digest("nested_reft.commands.train") != before
