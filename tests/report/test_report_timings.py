"""The table of where the time went, from Snakemake's benchmark files."""

from __future__ import annotations

from pathlib import Path

import pytest

from nested_reft.cli import main
from nested_reft.report.timings import job_seconds, timings_table

HEADER = "s\th:m:s\tmax_rss\tcpu_time\n"


def write(root: Path, job: str, seconds: float) -> Path:
    path = root / "benchmarks" / f"{job}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEADER}{seconds}\t0:00:01\t12.5\t0.3\n")
    return path


def test_the_seconds_of_each_kind(tmp_path: Path) -> None:
    for job, seconds in {
        "train/small/seed1": 30,
        "train/small/seed2": 90,
        "train/large/seed1": 240,
        "exact": 40,
    }.items():
        write(tmp_path, job, seconds)
    jobs = job_seconds(tmp_path)
    assert list(jobs["job"]) == ["", "large/seed1", "small/seed1", "small/seed2"]
    table = timings_table(jobs).set_index("kind")
    assert list(table.index) == ["train", "exact", "all"]
    assert list(table.loc["train"]) == ["3", "360", "90.0", "90.0", "240"]
    assert list(table.loc["exact"]) == ["1", "40.0", "10.0", "40.0", "40.0"]
    assert list(table.loc["all"]) == ["4", "400", "100", "65.0", "240"]


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "train/small/seed1", 1234.5)
    assert main(["timings", "--root", str(tmp_path)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| train")]
    assert [cell.strip() for cell in line.strip("|").split("|")] == ["train", "1", "1,234", "100", "1,234", "1,234"]


def test_what_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["timings", "--root", str(tmp_path)]) == 1
    assert f"{tmp_path}/benchmarks: has no file" in capsys.readouterr().err
    for text in ("", HEADER, "a\tb\n1\t2\n", f"{HEADER}word\t0\t1\t2\n", f"{HEADER}1\t0\t1\n"):
        path = write(tmp_path, "exact", 1)
        path.write_text(text)
        assert main(["timings", "--root", str(tmp_path)]) == 1
        assert f"{path}: is not a benchmark file" in capsys.readouterr().err
