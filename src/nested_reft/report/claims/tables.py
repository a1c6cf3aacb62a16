"""The claims as tables: for people, for the report's first page, and cell by cell for a comparison of two runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nested_reft.config.experiment import Config
from nested_reft.report.claims.judge import Claim, claim_rows
from nested_reft.report.claims.rules import MINIMUM_GAIN
from nested_reft.report.claims.summary import verdicts
from nested_reft.report.pages.page import Page, write_latex, write_markdown, write_table_html
from nested_reft.report.tidy import read_table, write_table

PAPER = "not available to us"
# For a program; the pages have these numbers in `measured`.
NUMBERS = ["low", "high", "cells", "passing", "failing"]
COLUMNS = ["id", "claim", "paper", "measured", *NUMBERS, "verdict", "figure", "command"]
CELLS = ["id", "size", "dataset", "skip", "estimate", "low", "high", "n", "verdict"]


def write_claims(root: Path, config: Config, target_folder: str | None = None, options: str = "") -> None:
    """Write `tables/claims` in all formats, `verdicts.csv` and `cells.csv`.

    `target_folder` and `options` go into the commands: the folder of the results as Snakemake names it (None for
    results/<experiment>), and the options that find the same workflow and configuration again, quoted for a shell.
    """
    runs, step_speed, throughput, gradients = (
        read_table(root, name) for name in ("runs", "step_speed", "throughput", "gradients")
    )
    write_judged(root, claim_rows(runs, step_speed, throughput, gradients, config), config, target_folder, options)


def write_judged(
    root: Path, claims: Sequence[Claim], config: Config, target_folder: str | None = None, options: str = ""
) -> None:
    """The same, of claims that are judged already."""
    folder = target_folder or f"results/{config.experiment}"
    rows = []
    for claim in claims:
        figure = f"figures/{claim.figure}.png" if claim.figure else ""
        # The target comes first: Snakemake's --configfile takes every word that follows it.
        command = f"snakemake --cores all {shlex.quote(f'{folder}/{figure}')} {options}".rstrip() if figure else ""
        counts = {
            "cells": len(claim.cells), "passing": claim.judged.count("passes"), "failing": claim.judged.count("fails")
        }  # fmt: skip
        rows.append({**vars(claim), **counts, "paper": PAPER, "figure": figure, "command": command})
    table = pd.DataFrame(rows, columns=COLUMNS)
    write_table(root, "claims", table)
    write_table(root, "verdicts", verdicts(table))
    write_table(root, "cells", cells_table(claims))
    texts = table.drop(columns=NUMBERS).fillna("").astype(str)
    # On paper there is nothing to follow or to copy.
    write_latex(root, "claims", claims_page(texts.drop(columns=["figure", "command"]), config))
    names = texts.assign(figure=[Path(figure).stem for figure in texts["figure"]])
    write_table_html(root / "tables/claims.html", claims_page(names.drop(columns="command"), config))
    texts["figure"] = [f"[{Path(f).stem}](../{f})" if f else "" for f in texts["figure"]]
    texts["command"] = [f"`{command}`" if command else "" for command in texts["command"]]
    write_markdown(root, "claims", claims_page(texts, config))


def cells_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """One row per cell of a claim: what was measured, and whether it passes, fails or is undecided.

    Empty if it was not run; without a verdict if it has no interval.
    """
    rows = []
    for claim in claims:
        for (cell, found), judged in zip(claim.cells.items(), claim.judged, strict=True):
            size, *names = [part for part in cell if isinstance(part, str)]
            skip = next((part for part in cell if isinstance(part, int)), None)
            row: dict[str, object] = {
                "id": claim.id,
                "size": size,
                "dataset": names[0] if names else "",
                "skip": skip,
                "verdict": judged or "",
            }
            if found:
                row |= {"estimate": found.estimate, "low": found.low, "high": found.high, "n": found.n}
            rows.append(row)
    return pd.DataFrame(rows, columns=CELLS)


def claims_page(table: pd.DataFrame, config: Config) -> Page:
    """The claims table with the rules of its verdicts."""
    margin = f"{100 * config.evaluation.parity_margin:g}"
    notes = (
        "A cell (a size, with data set and skip if the claim has them) passes if its whole 95 % interval satisfies the "
        "claim, fails if its whole interval contradicts it, and is undecided otherwise. Supported: every cell passes. "
        "Refuted: some fail and none passes. Partly: some pass and some fail. Inconclusive: none fails, and not all "
        "pass. Not run: no cell could be judged; one seed gives no interval. The claims hold of an interval above 1 "
        "(C1, C2; in C1 the medians must also rise with the skip, and fall for certain if an interval is wholly below "
        f"that of the skip before), of a relative bias within {100 * config.gradients.bias_margin:g} % (C3), of a "
        f"variance ratio of at most {config.gradients.variance_limit:g} (C4), and of a difference within "
        f"± {margin} points (C5). C6 passes if the gain is at least {100 * MINIMUM_GAIN:g} points and its interval "
        f"above 0, and fails if its whole interval is below {100 * MINIMUM_GAIN:g} points. C5 is a test of "
        "equivalence, two one-sided tests at 2.5 % each. Whether a difference is beyond the margin and whether it is "
        "below or above 0 are two questions; both counts are of whole intervals. "
        "Brackets: the 95 % interval of the worst cell, the one with the lowest estimate (C3, C4: the highest); C5 "
        "and C6 in percentage points."
    )
    return Page("Claims", (("", table),), notes)
