"""The rules: when a cell of a claim passes or fails, and the verdict over all cells of a claim.

A cell passes if its whole 95 % interval satisfies the claim, fails if its whole interval contradicts it, and is
undecided otherwise. Each bound is thus tested at 2.5 %, one-sided. What was not shown is never reported as refuted.
The thresholds are in the registry of the claims.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

from nested_reft.config.experiment import Config, nested_skips
from nested_reft.report.statistics.intervals import Interval, equivalence

CellVerdict = Literal["passes", "fails", "undecided"]
Verdict = Literal["supported", "refuted", "partly", "inconclusive", "not run"]
Rule: TypeAlias = Callable[[Interval], CellVerdict]


def verdict(cells: Sequence[CellVerdict | None]) -> Verdict:
    """The verdict over a claim's cells; None is a cell that was not run, or that has no interval.

    Supported: every cell passes. Refuted: some fail and none passes. Partly: some pass and some fail. Inconclusive:
    none fails, and not all pass. Not run: no cell could be judged.
    """
    if all(cell is None for cell in cells):
        return "not run"
    if all(cell == "passes" for cell in cells):
        return "supported"
    if "fails" not in cells:
        return "inconclusive"
    return "partly" if "passes" in cells else "refuted"


def is_above(speedup: Interval, limit: float) -> CellVerdict:
    """C1, C2: passes if the whole interval of the ratio is above `limit`, fails if none of it is."""
    return _cell(speedup.low > limit, speedup.high <= limit)


def is_at_most(found: Interval, limit: float) -> CellVerdict:
    """C3, C4: passes if the whole interval is at or below `limit`, fails if all of it is above."""
    return _cell(found.high <= limit, found.low > limit)


def is_on_par(difference: Interval, margin: float) -> CellVerdict:
    """C5: passes if the whole interval is within ±margin, fails if all of it is beyond, on one side."""
    found = equivalence(difference.low, difference.high, margin)
    return _cell(found == "equivalent", found == "beyond the margin")


def is_at_least(gain: Interval, limit: float) -> CellVerdict:
    """C6: passes if the whole interval is at or above `limit`, fails if all of it is below."""
    return _cell(gain.low >= limit, gain.high < limit)


def rises(speedups: Mapping[tuple[str, int], Interval | None], config: Config) -> CellVerdict:
    """C1: passes if the median speed-up rises with the skip at every size, over the cells that were run.

    Fails if it falls for certain: if the whole interval at some skip is below that at the skip before it.
    """
    steps: list[tuple[Interval, Interval]] = []
    for size in config.sizes:
        steps += pairwise(found for skip in nested_skips(config) if (found := speedups[size, skip]))
    rising = all(later.estimate > earlier.estimate for earlier, later in steps)
    return _cell(rising, any(later.high < earlier.low for earlier, later in steps))


def _cell(passes: bool, fails: bool) -> CellVerdict:
    return "passes" if passes else "fails" if fails else "undecided"
