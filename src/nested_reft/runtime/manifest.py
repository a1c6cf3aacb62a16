"""The manifest of a run: what it was made with, so that a number can be traced to code, data and machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Set by hooks and other tools: git would answer for their repository instead of the folder's.
NAME_A_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY")
PACKAGE = Path(__file__).parents[1]
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "nested-reft")


def commit_of(folder: Path) -> tuple[str | None, bool | None]:
    """Commit of the clone whose package is in `folder`, and whether tracked files differ from it; (None, None) if it is
    in no clone.

    Only a repository that tracks the package, in src/ at its root, is its clone: an unpacked archive or an environment
    may be inside somebody else's repository.
    """
    root = _git(folder, "rev-parse", "--show-toplevel")
    if root is None or Path(root, "src", folder.name).resolve() != folder.resolve():
        return None, None
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit, status = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--untracked-files=no")
    return (None, None) if commit is None or status is None else (commit, bool(status))


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command in a folder; None if it fails: no git, no repository, or one that git distrusts."""
    environment = {key: value for key, value in os.environ.items() if key not in NAME_A_REPOSITORY}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def processor_name() -> str:
    """The model of the CPU, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def build_manifest(settings: str, settings_hash: str, **facts: Any) -> dict[str, Any]:
    """Commit and dirty flag, settings with their hash, versions, machine, and the `facts` of the job."""
    import torch  # only now: it takes a second, and the arguments are checked before

    commit, dirty = commit_of(PACKAGE)
    return {
        "commit": commit,
        "dirty": dirty,
        "settings_hash": settings_hash,
        "settings": json.loads(settings),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        **facts,
    }
