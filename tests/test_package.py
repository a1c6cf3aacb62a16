"""What an index would serve: the wheel is whole, its metadata pass, and without extras it trains."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_trainer import check_output, tiny_code

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/nested_reft"

pytestmark = pytest.mark.slow


def run(*command: str | Path, folder: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """A command in `folder`, without this repository on Python's path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the source distribution and the wheel that is built from it, as for an index.

    From a copy: an old build/ would be packed as well.
    """
    folder = tmp_path_factory.mktemp("distributions")
    copy = folder / "source"
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", copy, folder=folder)
    return folder / "dist"


def wheel_of(distributions: Path) -> Path:
    (wheel,) = distributions.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def thin(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The programs of a fresh environment with the wheel, and no extra of it."""
    folder = tmp_path_factory.mktemp("thin")
    run(sys.executable, "-m", "venv", folder / "venv", folder=folder)
    programs = folder / "venv/bin"
    run(
        programs / "python", "-m", "pip", "install", "--quiet", *shlex.split(os.environ.get("PIP_ARGS", "")),
        "--constraint", ROOT / "requirements.lock", wheel_of(distributions), folder=folder,
    )  # fmt: skip
    yield programs
    shutil.rmtree(folder)  # torch is large, and pytest would keep it


def test_the_metadata_pass(distributions: Path) -> None:
    files = sorted(distributions.iterdir())
    assert [file.suffix for file in files] == [".whl", ".gz"]
    done = run(sys.executable, "-m", "twine", "check", "--strict", *files, folder=distributions)
    assert done.stdout.count("PASSED") == 2


def test_the_wheel_has_the_package_and_nothing_else(distributions: Path) -> None:
    sources = {
        path.relative_to(PACKAGE.parent).as_posix()
        for package in (PACKAGE, PACKAGE.parent / "snakemake_logger_plugin_nested_reft")
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"nested_reft/py.typed", "nested_reft/report/pages/templates/base.html"} <= sources
    packed = set(zipfile.ZipFile(wheel_of(distributions)).namelist())
    assert {name for name in packed if ".dist-info/" not in name} == sources
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in packed)


def test_without_extras_the_trainer_of_the_page_trains(thin: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    code = tmp_path / "trainer.py"
    code.write_text(tiny_code(tmp_path / "model"), encoding="utf-8")
    check_output(run(thin / "python", code, folder=tmp_path).stdout)


def test_without_extras_every_public_name_is_there_and_of_the_pipeline_only_the_help(
    thin: Path, tmp_path: Path
) -> None:
    packages = run(thin / "python", "-m", "pip", "list", "--format=freeze", folder=tmp_path).stdout
    assert not {"pandas", "snakemake", "matplotlib"} & {line.split("==")[0] for line in packages.splitlines()}
    run(thin / "python", "-c", "from nested_reft import *; grade('4', '4')", folder=tmp_path)
    assert "sub-command" in run(thin / "nested-reft", "--help", folder=tmp_path).stdout
