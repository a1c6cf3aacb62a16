"""Whether two runs of an experiment made the same tables, byte by byte but for what a clock measures."""

from __future__ import annotations

import csv
from pathlib import Path

from tiny_training import TIMINGS

from nested_reft.report.registry import PRESENTATION_TABLES, TABLE_KINDS, TIDY_TABLES

# What is measured with a clock: whole tables, columns of others, and rows of others by their id or metric.
TIMED_TABLES = {"throughput", "throughput_pairs", "speedup"}
TIMED_COLUMNS = {*TIMINGS, "wall_seconds"}
TIMED_ROWS = {"C1", "C2", "rollout_tokens_per_s"}


def assert_same_tables(first: Path, second: Path) -> None:
    """Compare two folders `tables`."""
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


def untimed(path: Path) -> list[list[str]]:
    """The cells of a CSV file that no clock has part in."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    kept = [place for place, name in enumerate(header) if name not in TIMED_COLUMNS]
    return [[row[place] for place in kept] for row in (header, *rows) if not TIMED_ROWS & set(row)]
