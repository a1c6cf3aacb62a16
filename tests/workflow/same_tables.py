"""Whether two runs of an experiment made the same tables, byte by byte but for what a clock measures.

Two versions of the code are compared by

    PYTHONPATH=tests/training python tests/workflow/same_tables.py BEFORE/results/smoke/tables results/smoke/tables
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Collection
from pathlib import Path

from tiny_training import TIMINGS

from nested_reft.report.registry import PRESENTATION_TABLES, TABLE_KINDS, TIDY_TABLES
from nested_reft.report.tables.layer_choice import EFFECTIVE
from nested_reft.report.tables.nestability import SPEEDUP

# What is measured with a clock: whole tables, columns of others, and rows of others by their id or metric.
TIMED_TABLES = {"throughput", "throughput_pairs", "step_speed", "step_speed_pairs", "speedup", "behaviours"}
TIMED_COLUMNS = {*TIMINGS, "wall_seconds", "seconds", "baseline_seconds", "speedup", EFFECTIVE, SPEEDUP}
PARTLY_TIMED = {"layer_choice", "nestability"}  # these have such columns, so of their formats only the CSV is compared
TIMED_ROWS = {"C1", "C2", "C7", "rollout_tokens_per_s"}


# What tells the version of the code, or is made from the names of its settings.
VERSION_COLUMNS = {"commit", "dirty", "settings_hash"}


def assert_same_tables(first: Path, second: Path, ignored: Collection[str] = ()) -> None:
    """Compare two folders `tables`, without the `ignored` columns of their CSV files."""
    for name in [*TIDY_TABLES, *PRESENTATION_TABLES, "claims", "verdicts", "cells"]:
        if name in TIMED_TABLES:
            assert all((folder / f"{name}.csv").stat().st_size for folder in (first, second)), name
            continue
        rows = untimed(first / f"{name}.csv", ignored)
        assert len(rows) > 1, name
        assert rows == untimed(second / f"{name}.csv", ignored), name
    for name in {*PRESENTATION_TABLES} - TIMED_TABLES - PARTLY_TIMED:
        for file in (f"{name}.{kind}" for kind in TABLE_KINDS):
            assert (first / file).read_bytes() == (second / file).read_bytes(), file


def untimed(path: Path, ignored: Collection[str] = ()) -> list[list[str]]:
    """The cells of a CSV file that no clock has part in, without the `ignored` columns."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    kept = [place for place, name in enumerate(header) if name not in {*TIMED_COLUMNS, *ignored}]
    return [[row[place] for place in kept] for row in (header, *rows) if not TIMED_ROWS & set(row)]


if __name__ == "__main__":
    assert_same_tables(Path(sys.argv[1]), Path(sys.argv[2]), VERSION_COLUMNS)
    print(f"{sys.argv[2]} has the tables of {sys.argv[1]}")
