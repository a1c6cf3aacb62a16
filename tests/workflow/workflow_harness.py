"""Runs Snakemake on a copy of the pipeline, so that no test touches the repository's own results."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nested_reft.data.repositories import MIRROR_VARIABLE

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 900  # only a call that waits for ever takes as long, on any machine
REPORT = {
    "settings",
    "collect",
    "presentation_tables",
    "claims",
    "figure",
    "page",
}  # rules that read results and train nothing


@dataclass(frozen=True)
class Call:
    """What a call of Snakemake came back with: what a user sees on the terminal, and what Snakemake kept in its log."""

    code: int
    output: str
    log: str = ""  # a dry run has none: its terminal has all

    @property
    def jobs(self) -> dict[str, int]:
        """How many jobs of each rule the table `Job stats` lists; empty if there was nothing to do."""
        table = (self.log or self.output).partition("Job stats:")[2].partition("total")[0]
        rows = re.findall(r"^(\w\S*) +(\d+)$", table, re.MULTILINE)
        return {rule: int(count) for rule, count in rows if rule not in ("job", "default", "all")}

    @property
    def messages(self) -> set[str]:
        """The messages of all jobs, such as `Figure: reward`, but for the target that has no command."""
        found = set(re.findall(r"^Job \d+: (.*)$", self.log or self.output, re.MULTILINE))
        return {message for message in found if not message.startswith("All figures, tables and pages")}

    def messages_of(self, kind: str) -> set[str]:
        return {message for message in self.messages if message.startswith(kind)}


@dataclass(frozen=True)
class Pipeline:
    """A copy of the pipeline and its package in `folder`, which is also the working directory."""

    folder: Path

    @classmethod
    def copied_to(cls, folder: Path) -> Pipeline:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("Snakefile", "environment.yml"):
            shutil.copy2(ROOT / name, folder / name)
        (folder / "profiles").symlink_to((ROOT / "profiles").readlink())
        for name in ("workflow", "config", "src"):
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        return cls(folder)

    def twin(self, folder: Path) -> Pipeline:
        """A copy with all results and what Snakemake knows of them; times of change are kept."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Pipeline(folder)

    def results(self, experiment: str) -> Path:
        return self.folder / "results" / experiment

    def write_config(self, settings: Mapping[str, Any], name: str = "config/test.yaml") -> str:
        (self.folder / name).write_text(yaml.safe_dump(dict(settings), sort_keys=False), encoding="utf-8")
        return name

    def edit(self, source: str) -> None:
        """Append a comment to a source file of the package."""
        path = self.folder / "src/nested_reft" / source
        path.write_text(path.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")

    def environment(self, mirror: Path | None) -> dict[str, str]:
        """No GPU, no hub, the copied package before the installed one."""
        environment = {key: value for key, value in os.environ.items() if key != MIRROR_VARIABLE}
        environment |= {"PYTHONPATH": str(self.folder / "src"), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        return environment | ({MIRROR_VARIABLE: str(mirror)} if mirror else {})

    def report(self, path: Path, config: str) -> Call:
        """`snakemake --report` as a user calls it: without a number of cores."""
        command = [sys.executable, "-m", "snakemake", "--report", str(path), "--configfile", config]
        done = subprocess.run(command, cwd=self.folder, env=self.environment(None), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=HANG_SECONDS)  # fmt: skip
        return Call(done.returncode, done.stdout)

    def command(self, *arguments: str, config: str | None = None) -> list[str]:
        options = ["--configfile", config] if config else []
        return [sys.executable, "-m", "snakemake", "--cores", "2", *arguments, *options]

    def call(
        self, *arguments: str, config: str | None = None, mirror: Path | None = None, timeout: float = HANG_SECONDS,
        record: Path | None = None, folder: Path | None = None,
    ) -> Call:  # fmt: skip
        """Call Snakemake, in another folder if one is given.

        With `record`, each job leaves there which modules it imported (`recorder/`).
        """
        environment = self.environment(mirror)
        if record:
            record.mkdir()
            environment |= {"NESTED_REFT_RECORD": str(record)}
            environment["PYTHONPATH"] += f":{Path(__file__).parent / 'recorder'}"
        before = set((folder or self.folder).glob(".snakemake/log/*.log"))
        done = subprocess.run(
            self.command(*arguments, config=config),
            cwd=folder or self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        logs = set((folder or self.folder).glob(".snakemake/log/*.log")) - before
        return Call(done.returncode, done.stdout, "".join(path.read_text(encoding="utf-8") for path in logs))

    def dry_run(self, *arguments: str, config: str | None = None, folder: Path | None = None) -> Call:
        done = self.call("-n", *arguments, config=config, folder=folder)
        assert done.code == 0, done.output
        return done


@dataclass(frozen=True)
class Finished:
    """The tiny experiment after its first complete call."""

    pipeline: Pipeline
    config: str
    first: Call
    imports: Path
    """The folder of what each of its jobs imported."""

    @property
    def results(self) -> Path:
        return self.pipeline.results("tiny")


def write_module(path: Path, pipeline: Pipeline, prefix: str = "part") -> Path:
    """Another workflow, whose module the pipeline is; its results go to a folder of their own."""
    path.write_text(
        f"""
module nested_reft:
    snakefile: {str(pipeline.folder / "workflow/Snakefile")!r}
    config: config
{f"    prefix: {prefix!r}" if prefix else ""}

use rule * from nested_reft as nested_*

rule all:
    default_target: True
    input:
        rules.nested_all.input,
""",
        encoding="utf-8",
    )
    return path


def read_config(name: str) -> dict[str, Any]:
    """A configuration of the repository, to be changed by a test."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "config" / name).read_text(encoding="utf-8"))
    return settings


def tiny_config() -> dict[str, Any]:
    """The smoke experiment made smaller: three runs of two steps."""
    settings = read_config("smoke.yaml")
    settings |= {"experiment": "tiny", "skips": [0, 17], "seeds": [1]}
    settings["corrections"] = {name: settings["corrections"][name] for name in ("base", "retrace")}
    settings["sizes"]["tiny"]["pretraining_steps"] = 5
    settings["training"] |= {"steps": 2, "checkpoint_every": 1}
    settings["throughput"]["pairs"] = 3
    settings["step_speed"] = {"pairs": 3}
    del settings["layer_choice"], settings["nestability"]
    return settings


PROBLEM = {"question": "What is 1 + 1?", "answer": "2"}


def hub_source(name: str, split: str) -> dict[str, Any]:
    return {"source": "hub", "repo": f"owner/{name}", "split": split, "question": "question", "answer": "answer"}


def hub_config() -> dict[str, Any]:
    """An experiment on two data sets, a benchmark and a model of the hub."""
    settings = read_config("smoke.yaml")
    del settings["pretraining"]
    settings |= {
        "experiment": "hub",
        "sizes": {"m": {"source": "hub", "repo": "owner/model", "layers": 6}},
        "datasets": {name: hub_source(name, "train") for name in ("first", "second")},
        "benchmarks": {"bench": hub_source("bench", "test")},
    }
    return settings


def expect_one_line(pipeline: Pipeline, done: Call, command: str, *parts: str) -> None:
    """The call failed with exactly one line by `command` that holds all `parts`, and nothing was trained."""
    assert done.code != 0
    lines = [line for line in done.output.splitlines() if line.startswith(f"nested-reft {command}: error: ")]
    assert len(lines) == 1, done.output
    assert [part for part in parts if part not in lines[0]] == [], lines[0]
    assert "Traceback" not in done.output
    assert not (pipeline.results("hub") / "runs").exists()
    assert not (pipeline.results("hub") / "data/checked.json").exists()
