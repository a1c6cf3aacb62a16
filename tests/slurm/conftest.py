"""Slurm tests need a Slurm that answers; `make test-slurm` starts one of a single node if there is none."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec

import pytest


@pytest.fixture(scope="session", autouse=True)
def slurm() -> None:
    if not shutil.which("sbatch") or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("no Slurm answers; `make test-slurm` starts one, or says what to install")
    if find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("no Slurm plugin of Snakemake: pip install -e '.[slurm]'")
