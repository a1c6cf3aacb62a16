"""The few lines that the pipeline ends with on the terminal."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

# Claims with a row for each correction are one line here.
BY_CORRECTION = {
    "C3": "The gradient estimates are unbiased",
    "C4": "The variance of the gradient estimates is controlled",
    "C5": "Nested-ReFT is on par with baseline ReFT",
}


def summary(claims: pd.DataFrame, root: Path) -> str:
    """One line per claim with its verdict, or its corrections by verdict, and where the figures and tables are."""
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for row in claims.to_dict("records"):
        claim, _, correction = row["id"].partition("-")
        groups.setdefault(claim, []).append((correction, row["verdict"], row["claim"]))
    return "\n".join(
        [
            "The paper's claims, as measured here:",
            *(_line(claim, rows) for claim, rows in groups.items()),
            f"Figures: {root / 'figures'}",
            f"Tables:  {root / 'tables'} (start with claims.md)",
        ]
    )


def _line(claim: str, rows: list[tuple[str, str, str]]) -> str:
    verdicts = list(dict.fromkeys(verdict for _, verdict, _ in rows))
    if claim not in BY_CORRECTION:
        text = rows[0][2]
    elif len(verdicts) == 1:
        text = f"{BY_CORRECTION[claim]}, with {', '.join(correction for correction, _, _ in rows)}"
    else:
        by_verdict = (
            f"{verdict}: {', '.join(correction for correction, found, _ in rows if found == verdict)}"
            for verdict in verdicts
        )
        text = f"{BY_CORRECTION[claim]} ({'; '.join(by_verdict)})"
    return f"  {claim}  {verdicts[0] if len(verdicts) == 1 else 'mixed':<9}  {text}"
