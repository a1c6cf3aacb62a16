"""What was measured of each claim of the registry, and a verdict by rule (`rules`).

A claim is judged cell by cell; a cell is a size, with a data set, a benchmark and a skip if the claim has them. C3, C4
and C5 have one row per correction. A cell that was not run, or of which there is one seed, is not judged, and the claim
is then not supported. A cell of C5 is not assessable unless the baseline has learned: otherwise a run that learned
nothing would pass. The row's `low` and `high` are those of the worst cell, on which the verdict hangs: a failing one if
any fails, otherwise an undecided one if any is; of several, the one whose interval is furthest against the claim.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar, get_args

import pandas as pd

from nested_reft.config.evaluation import sampled_at
from nested_reft.config.experiment import Config
from nested_reft.report.claims.registry import MINIMUM_GAIN, NO_SPREAD, Statement, of_correction, share, statements
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
from nested_reft.report.statistics.intervals import LEVEL, CellVerdict, Interval, against_zero, contradiction

T = TypeVar("T")
Measured: TypeAlias = Mapping[Any, Interval | None]  # the keys of a cell are those of `comparisons`

# The three variants of bias mitigation that this replication puts forward; each has its own row under C5.
HEADLINE_CORRECTIONS = ("base", "unit", "retrace")
# The verdicts of cells from the one that decides most: a failing cell is shown before all others.
DECISIVE = ("passes", None, "not assessable", "undecided", "fails")
# A cell that fails by itself, but not among as many as there are.
FAILS_ALONE = "fails by itself only"


@dataclass(frozen=True)
class Cell:
    """What was measured of a cell, its verdict (None: not run, or one seed), and why it is undecided or not assessable.

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


def judge_all(measured: Measured, statement: Statement, unfit: Mapping[Any, str] | None = None) -> dict[Any, Cell]:
    """Every cell judged by itself; those that fail are then held against the number of cells (Holm 1979).

    One that fails refutes a claim if none passes, so of many cells one would sooner or later do so by chance. With the
    correction that has a probability of at most 2.5 %, however they hang together. `unfit`: why the cells of a
    (size, data set, benchmark) are not assessable, if they are not.
    """
    cells = {where: judge(found, statement, (unfit or {}).get(where[:3], "")) for where, found in measured.items()}
    among = sum(cell.verdict in ("passes", "undecided", "fails") for cell in cells.values())
    against = {
        where: contradiction(cell.found, statement.limits, statement.scale)
        for where, cell in cells.items()
        if cell.found and cell.verdict == "fails"
    }
    failing = True
    for place, where in enumerate(sorted(against, key=against.__getitem__)):
        failing = failing and against[where] * (among - place) <= (1 - LEVEL) / 2
        if not failing:
            cells[where] = replace(cells[where], verdict="undecided", reason=FAILS_ALONE)
    return cells


def judge(found: Interval | None, statement: Statement, obstacle: str = "") -> Cell:
    """`found` judged by the statement's limits; what has several units but no interval is undecided."""
    if not found or not (found.exists or found.n > 1):
        return Cell(found, None)
    if obstacle:
        return Cell(found, "not assessable", f"not assessable: {obstacle}")
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
    of = statements(config, by_completion=by_completion)
    rollout = {cell: speedup for cell, speedup in rollout_speedups(throughput, config).items() if cell[1]}
    c1 = _claim("C1", of["C1"], judge_all(rollout, of["C1"]))
    rising = rises(rollout, config)
    if c1.verdict == "supported" and rising != "passes":
        text = "; does not rise with every skip" if rising == "fails" else "; not shown to rise with every skip"
        c1 = replace(c1, verdict="partly" if rising == "fails" else "inconclusive", measured=c1.measured + text)
    biases, variances = (
        completion_gradient_cells(completions, config) if by_completion else gradient_cells(gradients, config)
    )
    estimates = {"C3": biases, "C4": variances}
    on_par, sharper = parity_cells(runs, config), _sharper_start(runs, config)
    beside = "; ".join(filter(None, [_margin_beside_gains(runs, config), sharper]))
    return [
        c1,
        _claim("C2", of["C2"], judge_all(step_speedups(step_speed, config), of["C2"])),
        *(
            _claim(name, of[name], _of(correction, cells), correction)
            for name, cells in estimates.items()
            for correction in config.gradients.corrections
        ),
        *(_claim("C5", of["C5"], _of(name, on_par), name, beside) for name in HEADLINE_CORRECTIONS),
        _claim("C6", of["C6"], _learned(runs, config), note=sharper),
        *([_claim("C7", of["C7"], judge_all(worths(behaviours, config), of["C7"]))] if "C7" in of else []),
    ]


def parity_cells(runs: pd.DataFrame, config: Config) -> dict[Any, Cell]:
    """The cells of C5, those of each correction judged together, per (size, data set, benchmark, correction, skip)."""
    found = parity(runs, config, config.evaluation.headline)
    return _by_correction(found, statements(config)["C5"], obstacles(runs, config))


def gradient_cells(gradients: pd.DataFrame, config: Config) -> tuple[dict[Any, Cell], dict[Any, Cell]]:
    """The cells of C3 and of C4, those of each correction judged together, per (size, correction, skip)."""
    of, found = statements(config), (gradient_biases(gradients, config), gradient_variances(gradients, config))
    return _by_correction(found[0], of["C3"]), _by_correction(found[1], of["C4"])


def completion_gradient_cells(completions: pd.DataFrame, config: Config) -> tuple[dict[Any, Cell], dict[Any, Cell]]:
    """The same, problem by problem, from distinct completions."""
    of = statements(config, by_completion=True)
    found = (completion_gradients(completions, config, name) for name in ("bias", "variance_ratio"))
    biases, variances = (_by_correction(cells, of[name]) for name, cells in zip(("C3", "C4"), found, strict=True))
    return biases, variances


def obstacles(runs: pd.DataFrame, config: Config) -> dict[Any, str]:
    """Why parity would say nothing, per (size, data set, benchmark); what is assessable is left out.

    The test must be able to fail: the baseline has learned (C6), and the model that it started from is not on par with
    it.
    """
    limits, found = statements(config)["C5"].limits, {}
    for where, cell in _learned(runs, config).items():
        if cell.verdict != "passes":
            found[where] = f"the baseline is not shown to gain {100 * MINIMUM_GAIN:g} points"
        elif cell.found:
            start = replace(cell.found, estimate=-cell.found.estimate, low=-cell.found.high, high=-cell.found.low)
            if limits.judge(start) != "fails":
                found[where] = "the model that it starts from is not shown to be beyond the margin"
    return found


def _learned(runs: pd.DataFrame, config: Config) -> dict[Any, Cell]:
    """The cells of C6."""
    return judge_all(gains(runs, config, config.evaluation.headline), statements(config)["C6"])


def _by_correction(measured: Measured, statement: Statement, unfit: Mapping[Any, str] | None = None) -> dict[Any, Cell]:
    judged = {
        (*where[:-1], correction, where[-1]): cell
        for correction in dict.fromkeys(where[-2] for where in measured)
        for where, cell in judge_all(_of(correction, measured), statement, unfit).items()
    }
    return {where: judged[where] for where in measured}


def _margin_beside_gains(runs: pd.DataFrame, config: Config) -> str:
    """Which share of the baseline's gain the margin of parity is, where that can be judged."""
    margin, blocked = config.evaluation.parity_margin, obstacles(runs, config)
    found = gains(runs, config, config.evaluation.headline)
    shares = [100 * margin / gain.estimate for where, gain in found.items() if gain and where not in blocked]
    if not shares:
        return ""
    ends = dict.fromkeys(f"{end(shares):.0f}" for end in (min, max))
    return f"±{100 * margin:g} points are {' to '.join(ends)} % of the baseline's gain"


def _sharper_start(runs: pd.DataFrame, config: Config) -> str:
    """In how many cells of C6 the model before reinforcement is as accurate as the baseline, only sampled at a lower
    temperature: the best of `start_temperatures`. Empty if in none, and if it was not measured.
    """
    evaluation = config.evaluation
    if evaluation.headline != "sampled":
        return ""  # at temperature 0 all are as sharp as can be
    temperatures = evaluation.start_temperatures
    found = [gains(runs, config, "sampled", sampled_at(temperature)) for temperature in temperatures]
    at_each = [[gain for of in found if (gain := of[where]) and gain.exists] for where in (found[0] if found else ())]
    least = [min(of_cell, key=lambda gain: gain.estimate) for of_cell in at_each if of_cell]
    reached = sum(against_zero(gain) != "above 0" for gain in least)
    if not reached:
        return ""
    lower = " or ".join(f"{temperature:g}" for temperature in temperatures)
    return (
        f"sampled at T = {lower}, the model that the baseline starts from is not shown to be less accurate than it in "
        f"{reached} of {len(least)} cells"
    )


def _of(correction: str, cells: Mapping[Any, T]) -> dict[Any, T]:
    """The cells of one correction, whose name stands before the skip in a key."""
    return {(*cell[:-2], cell[-1]): found for cell, found in cells.items() if cell[-2] == correction}


def _claim(
    claim_id: str, statement: Statement, cells: Mapping[Any, Cell], correction: str = "", note: str = ""
) -> Claim:
    """A claim judged over its cells; `note` stands at the end of what was measured."""
    judged = [cell.verdict for cell in cells.values()]
    low = high = None
    text, counts = NOT_RUN, _counts(cells)
    if found := {where: cell for where, cell in cells.items() if cell.found}:
        where = max(found, key=lambda where: _decisiveness(found[where], statement))
        worst = found[where]
        if worst.found and worst.found.exists:
            low, high = worst.found.low, worst.found.high
        beside = worst.reason.partition(": ")[2] if worst.verdict == "undecided" else ""
        value = ", ".join(filter(None, [_written(worst.found, statement), beside]))
        single = sum(cell.verdict is None for cell in found.values()) if counts else 0
        parts = [counts or "one seed, so no interval", f"worst ({_where(where)}): {value}"]
        parts += [f"{single} without interval"] if single else []
        parts += [f"{len(cells) - len(found)} not run"] if len(found) < len(cells) else []
        parts += [_sides(cells)] if claim_id == "C5" and counts else []
        parts += [note] if note and counts else []
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
    """Two facts of C5's cells: how many fail, and on which side of 0 their intervals are."""
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
    """ "3 of 6 pass, 1 fail, 2 undecided"; what no cell is, is left out. Undecided cells are told apart by reason.

    If skips differ in their verdicts, these follow: "; refuted at 30 %, inconclusive at 10, 20 %".
    """
    counts = Counter(cell.reason.partition(":")[0] or cell.verdict for cell in cells.values())
    if counts[None] == len(cells):
        return ""
    kinds = ("fails", "undecided", NOT_RESOLVED, NO_SPREAD, FAILS_ALONE, "not assessable")
    others = [f"{counts[kind]} {'fail' if kind == 'fails' else kind}" for kind in kinds if counts[kind]]
    text = ", ".join([f"{counts['passes']} of {len(cells)} pass", *others])
    return "; ".join(filter(None, [text, _by_skip(cells)]))


def _by_skip(cells: Mapping[Any, Cell]) -> str:
    """The verdict at each skip, if they differ."""
    of_skip: dict[int, list[CellVerdict | None]] = {}
    for where, cell in cells.items():
        if isinstance(where[-1], int):
            of_skip.setdefault(where[-1], []).append(cell.verdict)
    found = {skip: verdict(judged) for skip, judged in sorted(of_skip.items())}
    if len(set(found.values())) < 2:
        return ""
    named = {name: [str(skip) for skip in found if found[skip] == name] for name in get_args(Verdict)}
    return ", ".join(f"{name} at {', '.join(skips)} %" for name, skips in named.items() if skips)


def _where(cell: tuple[str | int, ...]) -> str:
    return ", ".join(f"skip {part} %" if isinstance(part, int) else part for part in cell)
