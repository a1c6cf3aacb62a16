"""The workflow finds its files wherever Snakemake is started, and as a module of another workflow."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from workflow_harness import Pipeline, tiny_config, write_module


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A working directory with a space in its name, outside the clone."""
    folder = tmp_path / "else where"
    folder.mkdir()
    return folder


def rerun_options(output: str) -> list[str]:
    """The options of Snakemake that the commands of the claims table get, in a dry run with `-p`."""
    (command,) = re.findall(r"nested-reft claims .*", output)
    (options,) = (word for word in shlex.split(command) if word.startswith("--options="))
    return shlex.split(options.removeprefix("--options="))


def test_a_call_finds_the_default_experiment_from_every_folder(pipeline: Pipeline, elsewhere: Path) -> None:
    snakefile = str(pipeline.folder / "workflow/Snakefile")
    expected = pipeline.dry_run("-p")
    assert rerun_options(expected.output) == []
    calls = {
        "by its name": pipeline.dry_run("-p", "-s", "workflow/Snakefile"),
        "workflow/": pipeline.dry_run("-p", folder=pipeline.folder / "workflow"),
        "elsewhere": pipeline.dry_run("-p", "-s", snakefile, folder=elsewhere),
        "--directory": pipeline.dry_run("-p", "--directory", str(elsewhere)),
    }
    named = {
        "by its name": ["--snakefile", "workflow/Snakefile"],
        "elsewhere": ["--snakefile", "../pipeline/workflow/Snakefile"],
        "--directory": ["--snakefile", "../pipeline/Snakefile"],
    }
    for way, planned in calls.items():
        assert planned.jobs == expected.jobs, way
        assert "results/laptop/" in planned.output, way
        assert "Using workflow specific profile" in planned.output, way
        assert "localrules directive" not in planned.output, way
        assert rerun_options(planned.output) == named.get(way, []), way


def test_a_user_without_a_name_can_start_it(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is run with a number that it does not know."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    code = "import pwd\npwd.getpwuid = lambda number: {}[number]\n"
    (pipeline.folder / "src/sitecustomize.py").write_text(code, encoding="utf-8")
    assert pipeline.dry_run(config="config/smoke.yaml").jobs


def test_a_configuration_in_the_working_directory_comes_first(pipeline: Pipeline, elsewhere: Path) -> None:
    (elsewhere / "config").mkdir()
    (elsewhere / "config/config.yaml").write_text(yaml.safe_dump(tiny_config()), encoding="utf-8")
    planned = pipeline.dry_run("-s", str(pipeline.folder / "workflow/Snakefile"), folder=elsewhere)
    assert planned.jobs["train"] == 3
    assert "results/tiny/" in planned.output


def test_the_commands_of_the_claims_table_name_the_whole_configuration(pipeline: Pipeline, elsewhere: Path) -> None:
    """All files, quoted, and what --config changes; copied into a shell, they plan the same."""
    own = elsewhere / "my own.yaml"
    own.write_text("experiment: own\nseeds: [1]\n", encoding="utf-8")
    arguments = ["-p", "--config", "skips=[0, 17]", "--configfile", "config/smoke.yaml", str(own)]
    planned = pipeline.dry_run(*arguments)
    options = rerun_options(planned.output)
    assert options == ["--configfile", "config/smoke.yaml", "../else where/my own.yaml", "--config", "skips=[0, 17]"]
    again = pipeline.dry_run("-p", *options)
    assert again.jobs == planned.jobs
    assert rerun_options(again.output) == options


@pytest.mark.parametrize("prefix", ["", "part"])
def test_another_workflow_uses_it_as_a_module(pipeline: Pipeline, elsewhere: Path, prefix: str) -> None:
    expected = pipeline.dry_run(config="config/smoke.yaml")
    write_module(elsewhere / "Snakefile", pipeline, prefix)
    config = str(pipeline.folder / "config/smoke.yaml")
    planned = pipeline.dry_run("-p", config=config, folder=elsewhere)
    assert {name.removeprefix("nested_"): count for name, count in planned.jobs.items()} == expected.jobs
    assert "localrules directive" not in planned.output
    folder = f"{prefix}/results" if prefix else "results"
    assert f"--checkpoints {folder}/smoke/checkpoints " in planned.output
    assert f"--target-folder {folder}/smoke " in planned.output
    target = f"{folder}/smoke/data/test/heldout.jsonl"
    done = pipeline.call(target, config=config, folder=elsewhere)
    assert done.code == 0, done.output
    assert sorted(path.name for path in (elsewhere / folder).iterdir()) == ["smoke"]
    assert (elsewhere / target).is_file()


def test_a_module_inside_the_other_workflow_s_folder_keeps_its_sources(pipeline: Pipeline) -> None:
    """As a submodule of git: only then do relative paths not start with `..`, and get the prefix."""
    folder = pipeline.folder.parent
    write_module(folder / "Snakefile", pipeline)
    planned = pipeline.dry_run(config=str(pipeline.folder / "config/smoke.yaml"), folder=folder)
    assert planned.jobs["nested_train"] == 12


@pytest.mark.slow
def test_a_module_runs_to_the_end_and_its_commands_find_nothing_to_do(pipeline: Pipeline, elsewhere: Path) -> None:
    write_module(elsewhere / "Snakefile", pipeline)
    (elsewhere / "my own.yaml").write_text(yaml.safe_dump(tiny_config()), encoding="utf-8")
    done = pipeline.call(config="my own.yaml", folder=elsewhere, timeout=1800)
    assert done.code == 0, done.output
    table = (elsewhere / "part/results/tiny/tables/claims.md").read_text(encoding="utf-8")
    command = re.findall(r"`(snakemake [^`]*)`", table)[0]
    assert command.endswith("--configfile 'my own.yaml'")
    again = subprocess.run(
        f"{shlex.quote(sys.executable)} -m {command} -n",
        shell=True, cwd=elsewhere, env=pipeline.environment(None), capture_output=True, text=True,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "Nothing to be done" in again.stdout + again.stderr
    report = pipeline.call("--report", "report.html", config="my own.yaml", folder=elsewhere)
    assert report.code == 0, report.output
