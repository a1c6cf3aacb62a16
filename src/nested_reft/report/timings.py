"""Where the time of an experiment goes, from the benchmark files that Snakemake writes for every job."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nested_reft.runtime.errors import UserError

COLUMNS = ["kind", "jobs", "s, all", "share (%)", "s, median", "s, longest"]


class TimingsError(UserError, ValueError):
    """There is no benchmark file, or one is not as Snakemake writes it; the message names it."""


def job_seconds(root: Path) -> pd.DataFrame:
    """The wall-clock seconds of each finished job below `root`/benchmarks; `kind` is the folder that its file is in."""
    rows = []
    for path in sorted((root / "benchmarks").rglob("*.tsv")):
        lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        try:
            (seconds,) = (float(dict(zip(lines[0], line, strict=True))["s"]) for line in lines[1:])
        except (IndexError, KeyError, ValueError):
            raise TimingsError(
                f"{path}: is not a benchmark file of one job; delete it, and run the job again"
            ) from None
        parts = path.relative_to(root / "benchmarks").with_suffix("").parts
        rows.append({"kind": parts[0], "job": "/".join(parts[1:]), "seconds": seconds})
    if not rows:
        raise TimingsError(f"{root}/benchmarks: has no file of a finished job; run the experiment first")
    return pd.DataFrame(rows)


def timings_table(jobs: pd.DataFrame) -> pd.DataFrame:
    """One row per kind of job, the longest in all first, and one for all."""
    kinds = jobs.groupby("kind")["seconds"]
    found = kinds.agg(["size", "sum", "median", "max"]).sort_values("sum", ascending=False, kind="stable")
    found.loc["all"] = jobs["seconds"].agg(["size", "sum", "median", "max"])
    found.insert(2, "share", 100 * found["sum"] / jobs["seconds"].sum())
    numbers = found.drop(columns="size").map(lambda value: f"{value:,.{0 if value >= 100 else 1}f}")
    counts = found["size"].astype(int).astype(str)
    return pd.concat([counts, numbers], axis=1).reset_index().set_axis(COLUMNS, axis=1)
