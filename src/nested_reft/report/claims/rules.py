"""The rules: when a cell of a claim passes or fails, and the verdict over all cells of a claim.

A cell passes if its whole 95 % interval satisfies the claim, fails if its whole interval contradicts it, and is
undecided otherwise. Each bound is thus tested at 2.5 %, one-sided. What was not shown is never reported as refuted.
The limits are in the registry of the claims.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

from nested_reft.config.experiment import Config, nested_skips
from nested_reft.report.statistics.intervals import CellVerdict, Interval

Verdict = Literal["supported", "refuted", "partly", "inconclusive", "not assessable", "not run"]


def verdict(cells: Sequence[CellVerdict | None]) -> Verdict:
    """The verdict over a claim's cells; None is a cell that was not run, or that has no interval.

    Supported: every cell passes. Refuted: some fail and none passes. Partly: some pass and some fail. Inconclusive:
    none fails, and not all pass. Not assessable: no cell that was run can be judged, as there is nothing that it could
    show. Not run: no cell has an interval.
    """
    found = {cell for cell in cells if cell}
    if not found:
        return "not run"
    if found == {"not assessable"}:
        return "not assessable"
    if all(cell == "passes" for cell in cells):
        return "supported"
    if "fails" not in cells:
        return "inconclusive"
    return "partly" if "passes" in cells else "refuted"


def rises(speedups: Mapping[tuple[str, int], Interval | None], config: Config) -> CellVerdict:
    """C1: passes if the median speed-up rises with the skip at every size, over the cells that were run.

    Fails if it falls for certain: if the whole interval at some skip is below that at the skip before it.
    """
    steps: list[tuple[Interval, Interval]] = []
    for size in config.sizes:
        steps += pairwise(found for skip in nested_skips(config) if (found := speedups[size, skip]))
    rising = all(later.estimate > earlier.estimate for earlier, later in steps)
    if rising:
        return "passes"
    return "fails" if any(later.high < earlier.low for earlier, later in steps) else "undecided"
