"""Two runs of the smoke experiment give the same tables, byte by byte but for times, in whatever order the jobs ran."""

from __future__ import annotations

from pathlib import Path

import pytest
from same_tables import assert_same_tables
from workflow_harness import Pipeline, read_config

pytestmark = pytest.mark.slow


def tables(folder: Path, cores: str) -> Path:
    """The tables of the smoke experiment, run in `folder` with so many jobs at a time."""
    pipeline = Pipeline.copied_to(folder)
    settings = read_config("smoke.yaml")
    settings["sizes"]["tiny"]["pretraining_steps"] = 20
    done = pipeline.call("--cores", cores, config=pipeline.write_config(settings), timeout=1200)
    assert done.code == 0, done.output[-4000:]
    return pipeline.results("smoke") / "tables"


def test_two_runs_give_the_same_tables(tmp_path: Path) -> None:
    """All tables in one test: several would run the experiment twice in each worker of pytest-xdist.

    Its `xdist_group` has no effect under pytest 9.2 (pytest-xdist issue 1386).
    """
    assert_same_tables(tables(tmp_path / "two", "2"), tables(tmp_path / "one", "1"))
