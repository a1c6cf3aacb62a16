"""The Dockerfile without an engine: what it copies exists, reaches the builder, and makes `make env`'s."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) in order, with continued lines joined and comments left out."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#")).replace("\\\n", " ")
    pairs = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return [(name, " ".join(arguments.split())) for name, arguments in pairs]


def of(name: str) -> list[str]:
    return [arguments for found, arguments in instructions() if found == name]


def copied() -> set[str]:
    return {path for arguments in of("COPY") for path in arguments.split()[:-1]}


def test_what_is_copied_exists_and_nothing_else_goes_to_the_builder() -> None:
    assert [path for path in copied() if not (ROOT / path).exists()] == []
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in rules
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied()


def test_the_environment_is_made_by_the_makefile_from_files_that_are_copied() -> None:
    (make,) = (command for command in of("RUN") if "make env" in command)
    assert re.findall(r"(\w+)\) PIP_NO_CACHE_DIR=1 make env", make) == ["cpu", "cuda"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (needed,) = re.findall(r"^\$\(VENV\)/\.installed: (.*)$", makefile, re.MULTILINE)
    assert {"Makefile", *needed.split()} <= copied()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= copied()
    assert project["tool"]["setuptools"]["packages"]["find"]["where"] == ["src"]
    assert "src" in copied()
    (path,) = re.findall(r"PATH=(\S+):\$PATH", of("ENV")[0])
    (environment,) = re.findall(r"^VENV := (.*)$", makefile, re.MULTILINE)
    assert path == f"{of('WORKDIR')[0]}/{environment}/bin"


def test_versions_torch_and_user_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="(.*?)"', of("LABEL")[0]))
    assert {key: labels[key] for key in ("title", "version", "licenses")} == {
        "title": project["name"], "version": project["version"], "licenses": project["license"],
    }  # fmt: skip
    assert "cuda) PIP_NO_CACHE_DIR=1 make env TORCH_INDEX= ;;" in " ".join(of("RUN"))  # a builder has no card
    last_run = max(place for place, (name, _) in enumerate(instructions()) if name == "RUN")
    assert ("USER", "1000") in instructions()[last_run:], "no job runs as root"


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent)
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
