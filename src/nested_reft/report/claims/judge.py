"""What was measured of each claim of the registry, and a verdict by rule (`rules`).

A claim is judged cell by cell; a cell is a size, with a data set and a skip if the claim has them. C3, C4 and C5 have
one row per correction. A cell that was not run, or of which there is one seed, is not judged, and the claim is then not
supported. The row's `low` and `high` are those of the worst cell, on which the verdict hangs: one that fails if any
does, otherwise one that is undecided if any is; of several, the one whose interval is furthest against the claim.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pandas as pd

from nested_reft.config.experiment import Config
from nested_reft.report.claims.registry import Statement, of_correction, share, statements
from nested_reft.report.claims.rules import CellVerdict, Verdict, rises, verdict
from nested_reft.report.formatting import NOT_RESOLVED, NOT_RUN, relative_bias, with_interval
from nested_reft.report.statistics.comparisons import (
    gains,
    gradient_biases,
    gradient_variances,
    parity,
    rollout_speedups,
    step_speedups,
)
from nested_reft.report.statistics.gradients import Bias, bias_verdict
from nested_reft.report.statistics.intervals import Interval, against_zero

Measured: TypeAlias = Mapping[Any, Interval | None]  # the keys of a cell are those of `comparisons`

# The three variants of bias mitigation that this replication puts forward; each has its own row under C5.
HEADLINE_CORRECTIONS = ("base", "unit", "retrace")
NO_SPREAD = "without spread"
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


def judge(found: Interval | None, statement: Statement, reason: Callable[[Any], str]) -> Cell:
    """`found` judged by the statement's limits; what has several units but no interval is undecided."""
    if not found or not (found.exists or found.n > 1):
        return Cell(found, None)
    judged = statement.limits.judge(found) if found.exists else "undecided"
    return Cell(found, judged, reason(found) if judged == "undecided" else "")


def claim_rows(
    runs: pd.DataFrame, step_speed: pd.DataFrame, throughput: pd.DataFrame, gradients: pd.DataFrame, config: Config
) -> list[Claim]:
    """All claims, from the tidy tables of `collect`."""
    of, metric = statements(config), config.evaluation.headline
    rollout = {cell: speedup for cell, speedup in rollout_speedups(throughput, config).items() if cell[1]}
    c1 = _claim("C1", of["C1"], rollout)
    rising = rises(rollout, config)
    if c1.verdict == "supported" and rising != "passes":
        text = "; does not rise with every skip" if rising == "fails" else "; not shown to rise with every skip"
        c1 = replace(c1, verdict="partly" if rising == "fails" else "inconclusive", measured=c1.measured + text)
    c2 = _claim("C2", of["C2"], step_speedups(step_speed, config))
    biases, variances = gradient_biases(gradients, config), gradient_variances(gradients, config)
    differences, headline = parity(runs, config, metric), HEADLINE_CORRECTIONS
    c3 = [_bias_claim(name, of["C3"], _of(name, biases), config) for name in config.gradients.corrections]
    c4 = [_claim("C4", of["C4"], _of(name, variances), name, _not_resolved) for name in config.gradients.corrections]
    c5 = [_parity_claim(name, of["C5"], _of(name, differences)) for name in headline]
    c6 = _claim("C6", of["C6"], gains(runs, config, metric))
    return [c1, c2, *c3, *c4, *c5, c6]


def _of(name: str, effects: Measured) -> dict[Any, Interval | None]:
    """The cells of one correction, whose name stands before the skip in a key."""
    return {(*cell[:-2], cell[-1]): found for cell, found in effects.items() if cell[-2] == name}


def _bias_claim(name: str, statement: Statement, cells: Measured, config: Config) -> Claim:
    """C3 for one correction; beside what the noise hides stands the noise."""
    margin = config.gradients.bias_margin

    def reason(bias: Bias) -> str:
        noise = "" if math.isnan(bias.noise) else f": on-policy noise {share(bias.noise)}"
        return f"{NOT_RESOLVED}{noise}" if bias_verdict(bias, margin) == NOT_RESOLVED else ""

    return _claim("C3", statement, cells, name, reason, lambda bias, show: relative_bias(bias, margin, show))


def _not_resolved(found: Interval) -> str:
    return "" if found.exists else NOT_RESOLVED


def _no_spread(found: Interval) -> str:
    return "" if found.exists else NO_SPREAD


def _parity_claim(name: str, statement: Statement, cells: Measured) -> Claim:
    """C5 for one correction; says two facts of its cells: how many are beyond the margin, and on which side of 0."""
    claim = _claim("C5", statement, cells, name)
    if claim.verdict == "not run":
        return claim
    beyond = sum(cell.verdict == "fails" for cell in claim.cells.values())
    sides = Counter(against_zero(found.low, found.high) for found in cells.values() if found)
    facts = f"{beyond} beyond the margin; {sides['below 0']} below 0, {sides['above 0']} above 0"
    return replace(claim, measured=f"{claim.measured}; {facts}")


def _claim(
    claim_id: str,
    statement: Statement,
    measured: Measured,
    correction: str = "",
    reason: Callable[[Any], str] = _no_spread,
    written: Callable[[Any, Callable[[float], str]], str] = with_interval,
) -> Claim:
    """A claim judged over its cells; `reason` says why one is undecided, `written` writes what was measured of one."""
    cells = {where: judge(found, statement, reason) for where, found in measured.items()}
    judged = [cell.verdict for cell in cells.values()]
    low = high = None
    text, counts = NOT_RUN, _counts(cells)
    if found := {where: cell for where, cell in cells.items() if cell.found}:
        where = max(found, key=lambda where: _decisiveness(found[where], statement))
        worst = found[where]
        if worst.found and worst.found.exists:
            low, high = worst.found.low, worst.found.high
        _, _, beside = worst.reason.partition(": ")
        value = ", ".join(filter(None, [written(worst.found, statement.show), beside]))
        single = sum(cell.verdict is None for cell in found.values()) if counts else 0
        parts = [counts or "one seed, so no interval", f"worst ({_where(where)}): {value}"]
        parts += [f"{single} without interval"] if single else []
        parts += [f"{len(cells) - len(found)} not run"] if len(found) < len(cells) else []
        text = "; ".join(parts)
    name = f"{claim_id}-{correction}" if correction else claim_id
    words = of_correction(statement.text, correction) if correction else statement.text
    return Claim(name, statement, words, text, counts, low, high, verdict(judged), cells)


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
