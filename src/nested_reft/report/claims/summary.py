"""The verdicts, one line per claim: what the pipeline prints at its end, and what the report begins with."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

# Claims with one row per correction are one line here.
BY_CORRECTION = {
    "C3": "The gradient estimates are unbiased",
    "C4": "The variance of the gradient estimates is controlled",
    "C5": "Nested-ReFT is on par with baseline ReFT",
}


def verdicts(claims: pd.DataFrame) -> pd.DataFrame:
    """One row per claim: id, verdict ("mixed" if corrections differ) and claim.

    The claim names its corrections by verdict, and of what is inconclusive the number of cells that pass.
    """
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for row in claims.to_dict("records"):
        claim, _, correction = row["id"].partition("-")
        count = f" ({row['passing']} of {row['cells']} cells pass)" if row["verdict"] == "inconclusive" else ""
        groups.setdefault(claim, []).append((correction + count, row["verdict"], row["claim"] + count))
    return pd.DataFrame(
        [_row(claim, rows) for claim, rows in groups.items()], columns=["id", "verdict", "claim"], dtype=str
    )


def summary(claims: pd.DataFrame, root: Path) -> str:
    """The verdicts, and where the figures and tables are."""
    return "\n".join(
        [
            "The paper's claims, as measured here:",
            *(f"  {row.id}  {row.verdict:<12}  {row.claim}" for row in verdicts(claims).itertuples()),
            f"Figures: {root / 'figures'}",
            f"Tables:  {root / 'tables'} (start with claims.md)",
        ]
    )


def _row(claim: str, rows: list[tuple[str, str, str]]) -> tuple[str, str, str]:
    found = list(dict.fromkeys(verdict for _, verdict, _ in rows))
    if claim not in BY_CORRECTION:
        text = rows[0][2]
    elif len(found) == 1:
        text = f"{BY_CORRECTION[claim]}, with {', '.join(correction for correction, _, _ in rows)}"
    else:
        by_verdict = (
            f"{verdict}: {', '.join(correction for correction, of, _ in rows if of == verdict)}" for verdict in found
        )
        text = f"{BY_CORRECTION[claim]} ({'; '.join(by_verdict)})"
    return claim, found[0] if len(found) == 1 else "mixed", text
