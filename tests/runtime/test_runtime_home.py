"""A HOME that cannot be written: caches go elsewhere, and who can do nothing about it is told."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nested_reft.runtime.home import name_user

ROOT = Path(__file__).parents[2]


@pytest.fixture
def unwritable(tmp_path: Path) -> dict[str, str]:
    """An environment whose HOME is below a file: root cannot write it either."""
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    names = ("XDG_CACHE_HOME", "MPLCONFIGDIR", "HF_HOME", "MAKEFLAGS", "MAKELEVEL")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    return environment | {"HOME": str(tmp_path / "file/home"), "TMPDIR": str(tmp_path / "temporary")}


CODE = """
import sys
from nested_reft.cli import main
main(["compare", "--root", "no", "--reference", "no"])
import os, matplotlib
from huggingface_hub.constants import HF_HOME
print(os.environ.get("XDG_CACHE_HOME"), matplotlib.get_cachedir(), HF_HOME, sep="\\n")
"""


def places(environment: dict[str, str]) -> tuple[list[str], str]:
    """Where a job keeps its caches, and what it says about that."""
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-3:], done.stderr


def test_caches_of_a_job_go_to_a_temporary_folder(unwritable: dict[str, str]) -> None:
    found, said = places(unwritable)
    folder = f"{unwritable['TMPDIR']}/nested-reft-cache-{os.getuid()}"
    assert found == [folder, f"{folder}/matplotlib", f"{folder}/huggingface"]
    assert said.splitlines()[0] == (
        f"HOME cannot be written: caches go to {folder}; set XDG_CACHE_HOME to keep them elsewhere"
    )
    assert "atplotlib" not in said.partition("\n")[2], "matplotlib warns if it has to find a place"


def test_what_is_set_stays_and_a_home_that_can_be_written_is_used(unwritable: dict[str, str], tmp_path: Path) -> None:
    own = {"XDG_CACHE_HOME": str(tmp_path / "own"), "HF_HOME": str(tmp_path / "hub")}
    found, said = places(unwritable | own)
    assert found == [own["XDG_CACHE_HOME"], f"{own['XDG_CACHE_HOME']}/matplotlib", own["HF_HOME"]]
    assert "HOME cannot be written" not in said
    found, said = places(unwritable | {"HOME": str(tmp_path)})
    assert found == ["None", f"{tmp_path}/.cache/matplotlib", f"{tmp_path}/.cache/huggingface"]
    assert "HOME cannot be written" not in said


def test_make_gives_snakemake_a_cache(unwritable: dict[str, str], tmp_path: Path) -> None:
    def cache(environment: dict[str, str]) -> str:
        command = ["make", "--no-print-directory", "--eval", "show: ; @echo $$XDG_CACHE_HOME", "show"]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True).stdout.strip()

    assert cache(unwritable) == str(ROOT / ".cache")
    assert cache(unwritable | {"XDG_CACHE_HOME": "/own"}) == "/own"
    assert cache(unwritable | {"HOME": str(tmp_path)}) == ""


def test_a_user_that_the_machine_does_not_know_is_named_by_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    monkeypatch.setenv("LOGNAME", "")  # so that it is put back
    name_user()
    assert getpass.getuser() == str(os.getuid())
    monkeypatch.setenv("LOGNAME", "ada")
    name_user()
    assert os.environ["LOGNAME"] == "ada", "a user with a name keeps it"
