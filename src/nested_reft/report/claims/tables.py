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
from nested_reft.report.registry import CLAIM_TABLES
from nested_reft.report.tidy import read_table, write_table

# For a program; the pages have these numbers in `measured`.
NUMBERS = ["low", "high", "cells", "passing", "failing", "counts"]
COLUMNS = ["id", "claim", "paper", "measured", *NUMBERS, "verdict", "figure", "command"]
CELLS = ["id", "size", "dataset", "benchmark", "skip", "estimate", "low", "high", "n", "verdict", "reason"]


def write_claims(root: Path, config: Config, target_folder: str | None = None, options: str = "") -> None:
    """Write `tables/claims` in all formats, `verdicts.csv` and `cells.csv`.

    `target_folder` and `options` go into the commands: the folder of the results as Snakemake names it (None for
    results/<experiment>), and the options that find the same workflow and configuration again, quoted for a shell.
    """
    runs, step_speed, throughput, gradients, completions, behaviours = (read_table(root, name) for name in CLAIM_TABLES)
    claims = claim_rows(runs, step_speed, throughput, gradients, completions, behaviours, config)
    folder = target_folder or f"results/{config.experiment}"
    rows = []
    for claim in claims:
        figure = f"figures/{claim.statement.figure}.png"
        # The target comes first: Snakemake's --configfile takes every word that follows it.
        command = f"snakemake --cores all {shlex.quote(f'{folder}/{figure}')} {options}".rstrip()
        judged = [cell.verdict for cell in claim.cells.values()]
        counts = {"cells": len(judged), "passing": judged.count("passes"), "failing": judged.count("fails")}
        rows.append({**vars(claim), **counts, "paper": claim.statement.paper, "figure": figure, "command": command})
    table = pd.DataFrame(rows, columns=COLUMNS)
    write_table(root, "claims", table)
    write_table(root, "verdicts", verdicts(table))
    write_table(root, "cells", cells_table(claims))
    texts = table.drop(columns=NUMBERS).fillna("").astype(str)
    # On paper there is nothing to follow or to copy.
    write_latex(root, "claims", claims_page(texts.drop(columns=["figure", "command"])))
    names = texts.assign(figure=[Path(figure).stem for figure in texts["figure"]])
    write_table_html(root / "tables/claims.html", claims_page(names.drop(columns="command")))
    # A reference run keeps no figure of what was not run, so nothing may link to it.
    texts["figure"] = [
        "" if verdict == "not run" else f"[{Path(figure).stem}](../{figure})"
        for figure, verdict in zip(texts["figure"], texts["verdict"], strict=True)
    ]
    texts["command"] = [f"`{command}`" for command in texts["command"]]
    write_markdown(root, "claims", claims_page(texts))


def cells_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """One row per cell of a claim: what was measured, its verdict (passes, fails, undecided, not assessable), and why.

    Empty if it was not run; without a verdict if it has one seed. No reason: the interval includes the threshold.
    """
    rows = []
    for claim in claims:
        for where, cell in claim.cells.items():
            size, *names = [part for part in where if isinstance(part, str)]
            skip = next((part for part in where if isinstance(part, int)), None)
            row: dict[str, object] = {
                "id": claim.id,
                "size": size,
                "dataset": names[0] if names else "",
                "benchmark": names[1] if len(names) > 1 else "",
                "skip": skip,
                "verdict": cell.verdict or "",
                "reason": cell.reason,
            }
            if found := cell.found:
                row |= {"estimate": found.estimate, "low": found.low, "high": found.high, "n": found.n}
            rows.append(row)
    return pd.DataFrame(rows, columns=CELLS)


def claims_page(table: pd.DataFrame) -> Page:
    """The claims table with the rules of its verdicts."""
    notes = (
        "A cell (a size, with data set, benchmark and skip if the claim has them) passes if its whole 95 % interval "
        "satisfies the claim, fails if its whole interval contradicts it, and is undecided otherwise. As one failing "
        "cell can refute a claim, those that fail must do so among as many cells as the row has (Holm's correction); "
        "one that does not fails by itself only, and counts as undecided. Supported: every cell passes. "
        "Refuted: some fail and none passes. Partly: some pass and some fail. Inconclusive: none fails, and not all "
        "pass. Not run: no cell could be judged; one seed gives no interval. Not resolved: undecided, and the noise "
        "(how far two on-policy gradient estimates are apart, which have no bias) is above the claim's margin, or "
        "hides the gradient itself. Without spread: undecided, as all values are equal, so that there is no interval. "
        "In C1 the medians must also rise with the skip, and fall for certain if an interval is wholly below that of "
        "the skip before. C5 is a test of equivalence, two one-sided tests at 2.5 % each. Whether a difference is "
        "beyond the margin and whether it is below or above 0 are two questions: beyond the margin are the cells that "
        "fail, below or above 0 those whose whole interval is. "
        "C6 is no claim of the paper but a condition of this experiment, benchmark by benchmark. Where the baseline "
        "is not shown to gain that much, or the model that it started from not shown to be beyond the margin of C5, a "
        "run that learned nothing could be on par too: there C5 is not assessable. Brackets: the 95 % interval of the "
        "worst cell, on which the verdict hangs: one that fails if any does, otherwise one that is undecided if any "
        "is; of several, the one whose interval is furthest against the claim. C5 and C6 in percentage points."
    )
    return Page("Claims", (("", table),), notes)
