"""The tidy tables on disk, one fact per row: what `collect` writes, and all figures, tables and claims read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

# Columns of text; every other column is a number.
_TEXT = {"run", "size", "dataset", "strategy", "correction", "benchmark", "metric", "skipped_layers"}
_TEXT |= {"skipped", "params", "baseline", "normalisation"}
_TEXT |= {"problem", "prompt", "gold", "kind", "response"}
_TEXT |= {"commit", "settings_hash", "python", "packages", "platform", "processor", "gpus"}
_TEXT |= {"id", "claim", "paper", "measured", "counts", "verdict", "reason", "figure", "command"}


def write_table(root: Path, name: str, table: pd.DataFrame) -> None:
    """Write `tables/{name}.csv`; ten significant digits, so that a value written twice is the same text."""
    path = root / "tables" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.10g", lineterminator="\n", encoding="utf-8")


def read_table(root: Path, name: str) -> pd.DataFrame:
    """A table that `write_table` wrote, names as text ("" for none) and seeds as nullable integers."""
    path = root / "tables" / f"{name}.csv"
    columns = pd.read_csv(path, nrows=0).columns
    # Only numbers may be missing: a data set may be called "null" or "nan", which pandas would take for a gap.
    types = {column: "str" for column in columns if column in _TEXT} | {c: "Int64" for c in columns if c == "seed"}
    numbers = {column: [""] for column in columns if column not in _TEXT}
    return pd.read_csv(path, dtype=types, keep_default_na=False, na_values=numbers)
