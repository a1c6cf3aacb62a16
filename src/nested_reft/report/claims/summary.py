"""The verdicts: what the pipeline prints at its end, and, one line per claim, what the report begins with."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from nested_reft.config.records.record import read_record
from nested_reft.config.records.training import ManifestRecord
from nested_reft.report.claims.registry import of_correction

# Verdicts that say all there is to say of a claim's cells.
PLAIN = ("supported", "not assessable", "not run")
# What tells the verdicts apart at a glance.
MARKS = {"supported": "✓", "refuted": "✗", "partly": "±", "inconclusive": "○", "not assessable": "–", "not run": "·"}


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
    """Each claim in words with its verdicts and numbers, the alarms, and where the figures and tables are."""
    lines = ["The paper's claims, as measured here (95 % intervals):"]
    name_width, width = (int(claims[column].str.len().max()) for column in ("id", "verdict"))
    last = ""
    for row in claims.to_dict("records"):
        claim, _, correction = row["id"].partition("-")
        if claim != last:
            lines.append(f"{claim}  {row['claim'].removesuffix(of_correction('', correction))}")
        measured = "" if row["verdict"] == "not run" else row["measured"]
        name = correction.ljust(name_width - len("C3-"))
        lines.append(f"  {MARKS[row['verdict']]} {name}  {row['verdict']:<{width}}  {measured}".rstrip())
        last = claim
    lines += filter(None, [alarms(root)])
    return "\n".join([*lines, f"Figures: {root / 'figures'}", f"Tables:  {root / 'tables'} (start with claims.md)"])


def alarms(root: Path) -> str:
    """How many training runs had steps that were far off-policy, and by which limits; empty if none had."""
    records = [read_record(path, ManifestRecord) for path in sorted((root / "runs").rglob("manifest.json"))]
    steps = sum(len({alarm["step"] for alarm in record.alarms}) for record in records)
    runs = sum(bool(record.alarms) for record in records)
    causes = Counter(f"{alarm['quantity']} {alarm['limit']}" for record in records for alarm in record.alarms)
    listed = ", ".join(f"{cause} in {count}" for cause, count in causes.most_common())
    return f"Alarms: {steps} steps of {runs} runs (of {len(records)}) were far off-policy: {listed}" if runs else ""


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
