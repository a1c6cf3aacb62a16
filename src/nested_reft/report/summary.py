"""The few lines that the pipeline ends with on the terminal."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def summary(claims: pd.DataFrame, root: Path) -> str:
    """One line per claim with its verdict, and where the figures and tables are."""
    width = max(map(len, claims["id"]))
    lines = [f"  {row['id']:<{width}}  {row['verdict']:<9}  {row['claim']}" for row in claims.to_dict("records")]
    return "\n".join(
        [
            "The paper's claims, as measured here:",
            *lines,
            f"Figures: {root / 'figures'}",
            f"Tables:  {root / 'tables'} (start with claims.md)",
        ]
    )
