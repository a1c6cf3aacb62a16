"""The verdicts, one line per claim: what the pipeline prints at its end, and what the report begins with."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from nested_reft.report.claims.registry import of_correction

# Verdicts that say all there is to say of a claim's cells.
PLAIN = ("supported", "not run")


def verdicts(claims: pd.DataFrame) -> pd.DataFrame:
    """One row per claim: id, verdict and claim; if corrections differ, the verdicts with their numbers of corrections.

    The claim names its corrections by verdict, and says how many cells pass, fail and are undecided.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in claims.to_dict("records"):
        groups.setdefault(row["id"].partition("-")[0], []).append({str(key): value for key, value in row.items()})
    return pd.DataFrame(
        [_row(claim, rows) for claim, rows in groups.items()], columns=["id", "verdict", "claim"], dtype=str
    )


def summary(claims: pd.DataFrame, root: Path) -> str:
    """The verdicts, and where the figures and tables are."""
    table = verdicts(claims)
    width = table["verdict"].str.len().max()
    return "\n".join(
        [
            "The paper's claims, as measured here:",
            *(f"  {row.id}  {row.verdict:<{width}}  {row.claim}" for row in table.itertuples()),
            f"Figures: {root / 'figures'}",
            f"Tables:  {root / 'tables'} (start with claims.md)",
        ]
    )


def _row(claim: str, rows: list[dict[str, Any]]) -> tuple[str, str, str]:
    found = Counter(row["verdict"] for row in rows)
    verdict = ", ".join(f"{count} {name}" for name, count in found.items()) if len(found) > 1 else rows[0]["verdict"]
    corrections = [row["id"].partition("-")[2] for row in rows]
    if not corrections[0]:
        return claim, verdict, rows[0]["claim"] + _counts(rows[0])
    text = rows[0]["claim"].removesuffix(of_correction("", corrections[0]))
    named: dict[str, list[str]] = {name: [] for name in found}
    for row, correction in zip(rows, corrections, strict=True):
        named[row["verdict"]].append(correction + _counts(row))
    lists = {name: ", ".join(of) for name, of in named.items()}
    if len(lists) == 1:
        return claim, verdict, f"{text}, with {lists[verdict]}"
    return claim, verdict, f"{text} – {'; '.join(f'{name}: {of}' for name, of in lists.items())}"


def _counts(row: dict[str, Any]) -> str:
    return "" if row["verdict"] in PLAIN else f" ({row['counts']})"
