"""pyproject.toml, requirements.lock and environment.yml describe one environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from lock import conda_text, direct_requirements
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DIRECT = direct_requirements(PROJECT)


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_lock_satisfies_every_direct_requirement() -> None:
    versions = locked()
    for requirement in DIRECT:
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in requirements.lock; run `make lock`"
        assert requirement.specifier.contains(version), f"{requirement} does not allow the locked {version}"


def test_every_lock_entry_is_one_exact_version() -> None:
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line), line


def test_the_conda_file_is_what_make_lock_writes() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    expected = conda_text(DIRECT, [line for line in lines if not line.startswith("#")])
    found = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert found == expected
    (python,) = (
        line.split("=")[1] for line in yaml.safe_load(found)["dependencies"] if str(line).startswith("python=")
    )
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(f"{python}.0")


def test_every_imported_package_is_a_direct_requirement() -> None:
    """A package that only another one brings may be gone tomorrow."""
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        imported |= set(
            re.findall(r"^\s*(?:from (?=\S+ import\b)|import )(\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        )
    names = {"yaml": "pyyaml"}
    extras = [Requirement(text) for found in PROJECT["optional-dependencies"].values() for text in found]
    known = {canonicalize_name(requirement.name) for requirement in DIRECT + extras}
    third_party = imported - set(sys.stdlib_module_names) - {"nested_reft"}
    assert {canonicalize_name(names.get(name, name)) for name in third_party} <= known


def env_commands(path: Path, *arguments: str) -> str:
    """What `make env` would do if it found only the programs of a folder besides the system's."""
    command = ["make", "--dry-run", "env", f"VENV={path / 'none'}", *arguments]
    environment = {"PATH": f"{path}{os.pathsep}/usr/bin{os.pathsep}/bin", "HOME": str(path)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, no torch brings CUDA")
def test_without_an_nvidia_card_torch_comes_as_a_cpu_build(tmp_path: Path) -> None:
    cpu = "--no-deps --index-url https://download.pytorch.org/whl/cpu $(grep '^torch==' requirements.lock)"
    if not Path("/proc/driver/nvidia").exists():
        first, second = re.findall("^.* -m pip install .*$", env_commands(tmp_path), re.MULTILINE)[:2]
        assert cpu in first
        assert "--requirement requirements.lock" in second
    assert "whl/cu130" in env_commands(tmp_path, "TORCH_INDEX=https://download.pytorch.org/whl/cu130")
    assert "download.pytorch.org" not in env_commands(tmp_path, "TORCH_INDEX=")
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    assert "download.pytorch.org" not in env_commands(tmp_path)


def test_the_list_of_targets_has_each_once_in_a_group() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    groups = re.findall(r"^(\w+)\n((?:  .*\n?)+)", done.stdout, re.MULTILINE)
    assert [name for name, _ in groups] == ["start", "check", "develop"]
    listed = [line.split()[0] for _, lines in groups for line in lines.splitlines()]
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(phony.split())
