"""Two runs of the smoke experiment give the same tables, byte by byte but for times, in whatever order the jobs ran."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tiny_training import TIMINGS
from workflow_harness import Pipeline, read_config

from nested_reft.report.catalogue import PRESENTATION_TABLES, TABLE_KINDS, TIDY_TABLES

pytestmark = pytest.mark.slow

# What is measured with a clock: whole tables, columns of others, and rows of others by their id or metric.
TIMED_TABLES = {"throughput", "throughput_pairs", "speedup"}
TIMED_COLUMNS = {*TIMINGS, "wall_seconds"}
TIMED_ROWS = {"C1", "C2", "rollout_tokens_per_s"}


def tables(folder: Path, cores: str) -> Path:
    """The tables of the smoke experiment, run in `folder` with so many jobs at a time."""
    pipeline = Pipeline.copied_to(folder)
    settings = read_config("smoke.yaml")
    settings["sizes"]["tiny"]["pretraining_steps"] = 20
    done = pipeline.call("--cores", cores, config=pipeline.write_config(settings), timeout=1200)
    assert done.code == 0, done.output[-4000:]
    return pipeline.results("smoke") / "tables"


def untimed(path: Path) -> list[list[str]]:
    """The cells of a CSV file that no clock has part in."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    kept = [place for place, name in enumerate(header) if name not in TIMED_COLUMNS]
    return [[row[place] for place in kept] for row in (header, *rows) if not TIMED_ROWS & set(row)]


def test_two_runs_give_the_same_tables(tmp_path: Path) -> None:
    """All tables in one test: several would run the experiment twice in each worker of pytest-xdist.

    Its `xdist_group` has no effect under pytest 9.2 (pytest-xdist issue 1386).
    """
    first, second = tables(tmp_path / "two", "2"), tables(tmp_path / "one", "1")
    for name in [*TIDY_TABLES, *PRESENTATION_TABLES, "claims", "verdicts", "cells"]:
        if name in TIMED_TABLES:
            assert all((folder / f"{name}.csv").stat().st_size for folder in (first, second)), name
            continue
        rows = untimed(first / f"{name}.csv")
        assert len(rows) > 1, name
        assert rows == untimed(second / f"{name}.csv"), name
    for name in {*PRESENTATION_TABLES} - TIMED_TABLES:
        for file in (f"{name}.{kind}" for kind in TABLE_KINDS):
            assert (first / file).read_bytes() == (second / file).read_bytes(), file
