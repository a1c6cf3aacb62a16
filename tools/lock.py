"""Writes requirements.lock: the exact version of everything that `pip install .[dev]` brings into a fresh environment;
and environment.yml, the same environment for conda, which names the direct requirements at these versions.

torch's own CUDA libraries are left out: torch pins them itself, and a CPU build has none. A version without the
local part (`+cpu`) lets either build satisfy the lock. Extra arguments go to pip, e.g. a constraint on torch.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
HEADER = "# Written by `make lock`; `make env` installs exactly this.\n"
CONDA = """\
# Written by `make lock`: the environment of `make env`, for conda.
name: nested-reft
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - pip:
      - --constraint requirements.lock
{packages}
      - --editable .
"""
# Brought by CUDA builds of torch only.
LEFT_OUT = re.compile(r"^(nvidia-|triton|cuda-|nested-reft)", re.IGNORECASE)


def locked_lines(frozen: str) -> list[str]:
    """`pip freeze` output as sorted `name==version` lines, without local versions and what torch pins itself."""
    lines = []
    for line in frozen.splitlines():
        name, separator, version = line.strip().partition("==")
        if separator and not LEFT_OUT.match(name):
            lines.append(f"{name}=={version.split('+')[0]}")
    return sorted(lines, key=str.lower)


def direct_requirements(project: Mapping[str, Any]) -> list[Requirement]:
    """The requirements of the package and of its extra `dev`, including the package's extras that `dev` names."""
    extras = {name: [Requirement(text) for text in found] for name, found in project["optional-dependencies"].items()}
    found = [Requirement(text) for text in project["dependencies"]]
    for requirement in extras["dev"]:
        own = requirement.name == project["name"]
        found += [inner for name in requirement.extras for inner in extras[name]] if own else [requirement]
    return found


def conda_text(requirements: Iterable[Requirement], lock: Iterable[str]) -> str:
    """environment.yml: the direct requirements at the versions of the lock's lines."""
    versions = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lock}
    names = sorted(canonicalize_name(requirement.name) for requirement in requirements)
    return CONDA.format(packages="\n".join(f"      - {name}=={versions[name]}" for name in names))


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = str(Path(folder) / "bin/python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"{ROOT}[dev]", *sys.argv[1:]], check=True)
        frozen = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout
    lines = locked_lines(frozen)
    (ROOT / "requirements.lock").write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    (ROOT / "environment.yml").write_text(conda_text(direct_requirements(project), lines), encoding="utf-8")


if __name__ == "__main__":
    main()
