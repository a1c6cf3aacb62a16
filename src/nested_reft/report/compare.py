"""Whether a run found what a reference run found: verdicts, and every cell that they were judged on.

Two values differ if their intervals have no point in common. This rarely happens by chance (two independent 95 %
intervals of one quantity are disjoint in about one case in 200), and does not require equal numbers: other machines and
library versions round differently. A verdict can differ although no value does, if one is near the claim's limit. A
claim whose words differ is another claim, and is not compared: its estimator or its threshold is another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from nested_reft.config.records.record import RecordError, read_record
from nested_reft.config.records.training import ManifestRecord
from nested_reft.report.formatting import NOT_RESOLVED
from nested_reft.report.tidy import read_table

KEY = ["id", "size", "dataset", "benchmark", "skip"]
SPEED = ("C1", "C2")  # claims whose values depend on the machine


class DifferenceError(RecordError):
    """A run differs from its reference."""

    exit_code = 3


@dataclass(frozen=True)
class Comparison:
    """What differs, one line each; `compared` cells have an interval in both, `without` cells in one or neither.

    `others`: the claims that are not compared, since they say something else here. `processors`: that of the reference
    and those of this run, if they are known to be others.
    """

    verdicts: tuple[str, ...]
    values: tuple[str, ...]
    missing: tuple[str, ...]
    compared: int
    without: int
    others: tuple[str, ...] = ()
    processors: tuple[str, str] | None = None

    @property
    def differs(self) -> bool:
        """Whether anything differs."""
        return bool(self.verdicts or self.values or self.missing)

    def line(self) -> str:
        """The comparison in one line."""
        if not self.differs:
            return f"agrees in all verdicts and {self.compared} values"
        parts = {"verdicts": self.verdicts, "values": self.values, "results that are missing here": self.missing}
        return "differs in " + ", ".join(f"{len(lines)} {name}" for name, lines in parts.items() if lines)

    def text(self) -> str:
        """The whole comparison, for the terminal."""
        parts = [
            _list("Verdicts that differ", self.verdicts),
            _list("Values that differ beyond their 95 % intervals", self.values),
            _list("In the reference but not here", self.missing),
            _list("Judged in another way here, so not compared", self.others),
            f"{self.compared} values compared, {self.without} without interval",
        ]
        if any(line.startswith(SPEED) for line in (*self.verdicts, *self.values)):
            parts.append(f"{' and '.join(SPEED)} are about speed: another machine may well differ.")
        if self.differs and self.processors:
            parts.append(
                "The reference was computed on {}, this run on {}. Processors round differently, so a model that is "
                "pre-trained or warmed up here is another one, which the intervals do not cover.".format(
                    *self.processors
                )
            )
        return "\n".join(part for part in parts if part)


def compare_folders(reference: Path, root: Path) -> Comparison:
    """The comparison of the tables `claims.csv` and `cells.csv` of two folders; RecordError if one is missing.

    `reference` is a run that `make reference` kept, `root` a folder of results.
    """
    tables = [_table(folder, name) for name in ("claims", "cells") for folder in (reference, root)]
    return replace(compare(*tables), processors=_processors(reference, root))


def compare(
    reference_claims: pd.DataFrame, claims: pd.DataFrame, reference_cells: pd.DataFrame, cells: pd.DataFrame
) -> Comparison:
    """What does not hold here of the reference; what is only here (another skip, another seed) is no difference."""
    words, old_words = (table.set_index("id")["claim"] for table in (claims, reference_claims))
    others = tuple(str(name) for name, text in old_words.items() if words.get(name, text) != text)
    here = claims.set_index("id")["verdict"].to_dict()
    known = reference_claims.set_index("id")["verdict"].drop([*others]).to_dict()
    reference_cells = reference_cells[~reference_cells["id"].isin(others)]
    missing = [f"{name}: no such claim" for name in known if name not in here]
    both = reference_cells.merge(cells, on=KEY, how="left", suffixes=("_old", ""), indicator=True)
    # What the reference has measured must be here, though noise may have left no estimate.
    lost = both["n_old"].notna() & both["n"].isna()
    missing += [f"{_where(row)}: not run" for row in both[lost].to_dict("records") if row["id"] in here]
    judged = both[["low_old", "high_old", "low", "high"]].notna().all(axis=1)
    apart = judged & ((both["high"] < both["low_old"]) | (both["high_old"] < both["low"]))
    values = [f"{_where(row)}: {_value(row, '_old')}, here {_value(row, '')}" for row in both[apart].to_dict("records")]
    moved = set(both.loc[apart | lost, "id"])
    changed = [
        f"{name}: {old}, here {here[name]}" + ("" if name in moved else " (its values agree within their intervals)")
        for name, old in known.items()
        if here.get(name, old) != old
    ]
    without = int((~judged & ~lost).sum())
    return Comparison(tuple(changed), tuple(values), tuple(missing), int(judged.sum()), without, others)


def _table(folder: Path, name: str) -> pd.DataFrame:
    path = folder / "tables" / f"{name}.csv"
    if not path.exists():
        raise RecordError(f"{path}: does not exist; run the experiment (`make results`) or keep one (`make reference`)")
    table = read_table(folder, name)
    wanted = ["id", "claim", "verdict"] if name == "claims" else [*KEY, "estimate", "low", "high", "n"]
    if absent := [column for column in wanted if column not in table]:
        raise RecordError.damaged(path, f"has no column {absent[0]!r}")
    return table


def _processors(reference: Path, root: Path) -> tuple[str, str] | None:
    """The processors of a kept run, which has one manifest, and of a run, if they are known and differ."""
    manifest, table = reference / "manifest.json", root / "tables/manifests.csv"
    if not manifest.exists() or not table.exists():
        return None
    kept = read_record(manifest, ManifestRecord).processor
    here = sorted(set(read_table(root, "manifests")["processor"]))
    return None if not here or here == [kept] else (kept, " and ".join(here))


def _where(row: Mapping[Any, Any]) -> str:
    names = [str(row[key]) for key in ("size", "dataset", "benchmark") if row[key]]
    skip = [] if pd.isna(row["skip"]) else [f"skip {row['skip']:g} %"]
    return f"{row['id']} ({', '.join([*names, *skip])})"


def _value(row: Mapping[Any, Any], which: str) -> str:
    estimate, low, high = (row[f"{name}{which}"] for name in ("estimate", "low", "high"))
    return f"{NOT_RESOLVED if pd.isna(estimate) else f'{estimate:.4g}'} [{low:.4g}, {high:.4g}]"


def _list(heading: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{heading}:", *(f"  {line}" for line in lines)]) if lines else ""
