"""The claims as tables: for people, for the report's first page, and cell by cell for a comparison of two runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nested_reft.config.experiment import Config
from nested_reft.report.claims.judge import Claim, claim_rows
from nested_reft.report.claims.summary import verdicts
from nested_reft.report.pages.page import Page, write_latex, write_markdown, write_table_html
from nested_reft.report.tidy import read_table, write_table

PAPER = "not available to us"
COLUMNS = ["id", "claim", "paper", "measured", "low", "high", "verdict", "figure", "command"]
CELLS = ["id", "size", "dataset", "skip", "estimate", "low", "high", "n", "passes"]


def write_claims(root: Path, config: Config, target_folder: str | None = None, options: str = "") -> None:
    """Write `tables/claims` in all formats, `verdicts.csv` and `cells.csv`.

    `target_folder` and `options` go into the commands: the folder of the results as Snakemake names it (None for
    results/<experiment>), and the options that find the same workflow and configuration again, quoted for a shell.
    """
    folder = target_folder or f"results/{config.experiment}"
    runs, training, throughput, gradients = (
        read_table(root, name) for name in ("runs", "training", "throughput", "gradients")
    )
    claims, rows = claim_rows(runs, training, throughput, gradients, config), []
    for claim in claims:
        figure = f"figures/{claim.figure}.png" if claim.figure else ""
        # The target comes first: Snakemake's --configfile takes every word that follows it.
        command = f"snakemake --cores all {shlex.quote(f'{folder}/{figure}')} {options}".rstrip() if figure else ""
        rows.append({**vars(claim), "paper": PAPER, "figure": figure, "command": command})
    table = pd.DataFrame(rows, columns=COLUMNS)
    write_table(root, "claims", table)
    write_table(root, "verdicts", verdicts(table))
    write_table(root, "cells", cells_table(claims))
    texts = table.drop(columns=["low", "high"]).fillna("").astype(str)
    # On paper there is nothing to follow or to copy.
    write_latex(root, "claims", claims_page(texts.drop(columns=["figure", "command"]), config))
    names = texts.assign(figure=[Path(figure).stem for figure in texts["figure"]])
    write_table_html(root / "tables/claims.html", claims_page(names.drop(columns="command"), config))
    texts["figure"] = [f"[{Path(f).stem}](../{f})" if f else "" for f in texts["figure"]]
    texts["command"] = [f"`{command}`" if command else "" for command in texts["command"]]
    write_markdown(root, "claims", claims_page(texts, config))


def cells_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """One row per cell of a claim: what was measured, and whether it passes; empty if it was not run."""
    rows = []
    for claim in claims:
        for (cell, found), passes in zip(claim.cells.items(), claim.passes, strict=True):
            size, *names = [part for part in cell if isinstance(part, str)]
            skip = next((part for part in cell if isinstance(part, int)), None)
            row: dict[str, object] = {
                "id": claim.id,
                "size": size,
                "dataset": names[0] if names else "",
                "skip": skip,
                "passes": passes,
            }
            if found:
                row |= {"estimate": found.estimate, "low": found.low, "high": found.high, "n": found.n}
            rows.append(row)
    return pd.DataFrame(rows, columns=CELLS)


def claims_page(table: pd.DataFrame, config: Config) -> Page:
    """The claims table with the rules of its verdicts."""
    notes = (
        "Supported: every cell (a size, with data set and skip where the claim has them) passes. Partly: some do. "
        "Not: none does. Not run: no cell could be judged; one seed gives no interval and so no verdict. A cell "
        "passes if its whole 95 % interval lies above 1 (C1, C2; C1 must also rise with the skip), is a relative bias "
        f"within {100 * config.gradients.bias_margin:g} % (C3), is a variance ratio of at most "
        f"{config.gradients.variance_limit:g} (C4), lies within "
        f"± {100 * config.evaluation.parity_margin:g} points (C5), or above 0 with a gain of at least 10 points (C6). "
        "Not to pass as unbiased is not to be biased: C3 says how many cells are biased for certain. "
        "Brackets: the 95 % interval of the worst cell, the one with the lowest estimate (C3, C4: the highest); C5 "
        "and C6 in percentage points."
    )
    return Page("Claims", (("", table),), notes)
