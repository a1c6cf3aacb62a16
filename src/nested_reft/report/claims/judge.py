"""What was measured of each claim of the registry, and a verdict by rule (`rules`).

A claim is judged cell by cell; a cell is a size, with a data set and a skip if the claim has them. C3, C4 and C5 have
one row per correction. A cell that was not run, or of which there is one seed, is not judged, and the claim is then not
supported. The row's `low` and `high` are those of the worst cell, on which the verdict hangs: one that fails if any
does, otherwise one that is undecided if any is; of several, the one whose interval is furthest against the claim.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pandas as pd

from nested_reft.config.experiment import Config
from nested_reft.report.claims.registry import NO_SPREAD, Statement, of_correction, share, statements
from nested_reft.report.claims.rules import Verdict, rises, verdict
from nested_reft.report.formatting import NOT_RESOLVED, NOT_RUN, relative_bias, with_interval
from nested_reft.report.statistics.behaviours import worths
from nested_reft.report.statistics.comparisons import (
    completion_gradients,
    gains,
    gradient_biases,
    gradient_variances,
    parity,
    rollout_speedups,
    step_speedups,
)
from nested_reft.report.statistics.gradients import Bias, bias_verdict
from nested_reft.report.statistics.intervals import CellVerdict, Interval, against_zero

Measured: TypeAlias = Mapping[Any, Interval | None]  # the keys of a cell are those of `comparisons`

# The three variants of bias mitigation that this replication puts forward; each has its own row under C5.
HEADLINE_CORRECTIONS = ("base", "unit", "retrace")
# The verdicts of cells from the one that decides most: a failing cell is shown before all others.
DECISIVE = ("passes", None, "undecided", "fails")


@dataclass(frozen=True)
class Cell:
    """What was measured of a cell, its verdict (None: not run, or one seed), and why it is undecided.

    There is no reason if the interval reaches over the threshold and nothing else is wrong with it.
    """

    found: Interval | None
    verdict: CellVerdict | None
    reason: str = ""


@dataclass(frozen=True)
class Claim:
    """One row of the claims table; `counts` says how many cells pass, fail and are undecided, if any was judged."""

    id: str
    statement: Statement
    claim: str
    measured: str
    counts: str
    low: float | None
    high: float | None
    verdict: Verdict
    cells: Mapping[Any, Cell]


def judge(found: Interval | None, statement: Statement) -> Cell:
    """`found` judged by the statement's limits; what has several units but no interval is undecided."""
    if not found or not (found.exists or found.n > 1):
        return Cell(found, None)
    judged = statement.limits.judge(found)
    return Cell(found, judged, _reason(found, statement) if judged == "undecided" else "")


def _reason(found: Interval, statement: Statement) -> str:
    """Why it is undecided, if not since the interval includes the threshold; beside what noise hides, the noise."""
    if isinstance(found, Bias):
        if bias_verdict(found, statement.limits.high) != NOT_RESOLVED:
            return ""
        return NOT_RESOLVED + ("" if math.isnan(found.noise) else f": on-policy noise {share(found.noise)}")
    return "" if found.exists else statement.without_interval


def claim_rows(
    runs: pd.DataFrame,
    step_speed: pd.DataFrame,
    throughput: pd.DataFrame,
    gradients: pd.DataFrame,
    completions: pd.DataFrame,
    behaviours: pd.DataFrame,
    config: Config,
) -> list[Claim]:
    """All claims, from the tidy tables of `collect`. C3 and C4 are judged by distinct completions where those were
    measured, and their words say so; otherwise by batches.
    """
    by_completion = config.gradients.by_completion is not None and not completions.empty
    of, metric = statements(config, by_completion=by_completion), config.evaluation.headline
    biases: Measured = gradient_biases(gradients, config)
    variances: Measured = gradient_variances(gradients, config)
    if by_completion:
        biases, variances = (completion_gradients(completions, config, name) for name in ("bias", "variance_ratio"))
    rollout = {cell: speedup for cell, speedup in rollout_speedups(throughput, config).items() if cell[1]}
    c1 = _claim("C1", of["C1"], rollout)
    rising = rises(rollout, config)
    if c1.verdict == "supported" and rising != "passes":
        text = "; does not rise with every skip" if rising == "fails" else "; not shown to rise with every skip"
        c1 = replace(c1, verdict="partly" if rising == "fails" else "inconclusive", measured=c1.measured + text)
    by_correction: dict[str, tuple[Measured, Iterable[str]]] = {
        "C3": (biases, config.gradients.corrections),
        "C4": (variances, config.gradients.corrections),
        "C5": (parity(runs, config, metric), HEADLINE_CORRECTIONS),
    }
    return [
        c1,
        _claim("C2", of["C2"], step_speedups(step_speed, config)),
        *(
            _claim(name, of[name], _of(correction, effects), correction)
            for name, (effects, corrections) in by_correction.items()
            for correction in corrections
        ),
        _claim("C6", of["C6"], gains(runs, config, metric)),
        *([_claim("C7", of["C7"], worths(behaviours, config))] if "C7" in of else []),
    ]


def _of(correction: str, effects: Measured) -> Measured:
    """The cells of one correction, whose name stands before the skip in a key."""
    return {(*cell[:-2], cell[-1]): found for cell, found in effects.items() if cell[-2] == correction}


def _claim(claim_id: str, statement: Statement, measured: Measured, correction: str = "") -> Claim:
    """A claim judged over its cells."""
    cells = {where: judge(found, statement) for where, found in measured.items()}
    judged = [cell.verdict for cell in cells.values()]
    low = high = None
    text, counts = NOT_RUN, _counts(cells)
    if found := {where: cell for where, cell in cells.items() if cell.found}:
        where = max(found, key=lambda where: _decisiveness(found[where], statement))
        worst = found[where]
        if worst.found and worst.found.exists:
            low, high = worst.found.low, worst.found.high
        _, _, beside = worst.reason.partition(": ")
        value = ", ".join(filter(None, [_written(worst.found, statement), beside]))
        single = sum(cell.verdict is None for cell in found.values()) if counts else 0
        parts = [counts or "one seed, so no interval", f"worst ({_where(where)}): {value}"]
        parts += [f"{single} without interval"] if single else []
        parts += [f"{len(cells) - len(found)} not run"] if len(found) < len(cells) else []
        parts += [_sides(cells)] if claim_id == "C5" and counts else []
        text = "; ".join(parts)
    name = f"{claim_id}-{correction}" if correction else claim_id
    words = of_correction(statement.text, correction) if correction else statement.text
    return Claim(name, statement, words, text, counts, low, high, verdict(judged), cells)


def _written(found: Interval | None, statement: Statement) -> str:
    if isinstance(found, Bias):
        return relative_bias(found, statement.limits.high, statement.show)
    if found and found.exists and math.isnan(found.estimate):  # the root of a negative square
        return f"≤ {statement.show(found.high)}"
    return with_interval(found, statement.show)


def _sides(cells: Mapping[Any, Cell]) -> str:
    """Two facts of C5's cells: how many are beyond the margin, and on which side of 0."""
    beyond = sum(cell.verdict == "fails" for cell in cells.values())
    sides = Counter(against_zero(cell.found) for cell in cells.values() if cell.found)
    return f"{beyond} beyond the margin; {sides['below 0']} below 0, {sides['above 0']} above 0"


def _decisiveness(cell: Cell, statement: Statement) -> tuple[int, float]:
    """How much a verdict hangs on a cell: by the cell's own verdict, then by how far its interval is against the claim.

    What fails is as clear as the bound that is nearer to the threshold, everything else as the one that is further.
    """
    assert cell.found
    values = [cell.found.low, cell.found.high] if cell.found.exists else [cell.found.estimate]
    against = [statement.limits.beyond(value) for value in values if not math.isnan(value)]
    choose = min if cell.verdict == "fails" else max
    return DECISIVE.index(cell.verdict), choose(against, default=-math.inf)


def _counts(cells: Mapping[Any, Cell]) -> str:
    """ "3 of 6 pass, 1 fail, 2 undecided"; what no cell is, is left out. Undecided cells are told apart by reason."""
    counts = Counter(cell.reason.partition(":")[0] or cell.verdict for cell in cells.values())
    if counts[None] == len(cells):
        return ""
    texts = {"fails": "fail", "undecided": "undecided", NOT_RESOLVED: NOT_RESOLVED, NO_SPREAD: NO_SPREAD}
    others = [f"{counts[kind]} {text}" for kind, text in texts.items() if counts[kind]]
    return ", ".join([f"{counts['passes']} of {len(cells)} pass", *others])


def _where(cell: tuple[str | int, ...]) -> str:
    return ", ".join(f"skip {part} %" if isinstance(part, int) else part for part in cell)
