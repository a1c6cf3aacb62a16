"""Two runs of the smoke experiment give the same tables, byte by byte but for times, in whatever order the jobs ran."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from workflow_harness import Pipeline, read_config

from nested_reft.report.catalogue import PRESENTATION_TABLES, TABLE_KINDS, TIDY_TABLES

# One process runs the experiment twice for all tests of this file.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("repeat")]

# What is measured with a clock: whole tables, columns of others, and rows of others by their id or metric.
TIMED_TABLES = {"throughput", "throughput_pairs", "speedup"}
TIMED_COLUMNS = {
    "rollout_seconds", "reward_seconds", "update_seconds", "rollout_tokens_per_s", "tokens_per_s",
}  # fmt: skip
TIMED_ROWS = {"C1", "C2", "rollout_tokens_per_s"}


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tables of two runs: two jobs at a time, then one, which is another order."""
    folders = []
    for cores in ("2", "1"):
        pipeline = Pipeline.copied_to(tmp_path_factory.mktemp(f"cores{cores}") / "pipeline")
        settings = read_config("smoke.yaml")
        settings["sizes"]["tiny"]["pretraining_steps"] = 20
        config = pipeline.write_config(settings)
        done = pipeline.call("--cores", cores, config=config, timeout=1200)
        assert done.code == 0, done.output[-4000:]
        folders.append(pipeline.results("smoke") / "tables")
    return folders[0], folders[1]


def untimed(path: Path) -> list[list[str]]:
    """The cells of a CSV file that no clock has part in."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    kept = [place for place, name in enumerate(header) if name not in TIMED_COLUMNS]
    return [[row[place] for place in kept] for row in (header, *rows) if not TIMED_ROWS & set(row)]


@pytest.mark.parametrize("name", [*TIDY_TABLES, *PRESENTATION_TABLES, "claims"])
def test_the_cells_of_every_table_are_the_same(twice: tuple[Path, Path], name: str) -> None:
    if name in TIMED_TABLES:
        assert all((folder / f"{name}.csv").stat().st_size for folder in twice)
        return
    first, second = (untimed(folder / f"{name}.csv") for folder in twice)
    assert first == second
    assert len(first) > 1


@pytest.mark.parametrize("name", [name for name in PRESENTATION_TABLES if name not in TIMED_TABLES])
def test_tables_without_times_are_the_same_files(twice: tuple[Path, Path], name: str) -> None:
    for kind in TABLE_KINDS:
        first, second = ((folder / f"{name}.{kind}").read_bytes() for folder in twice)
        assert first == second
