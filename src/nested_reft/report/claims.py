"""The paper's claims, what was measured of each, and a verdict by rule.

A claim is judged cell by cell; a cell is a size, with a data set and a skip where the claim has them.

- C1, C2 pass a cell whose speed-up has its whole 95 % interval above 1. C1 is supported only if, besides, the median
  rises with the skip at every size.
- C5 passes a cell whose difference from the baseline has its whole 95 % interval within ±`parity_margin`.
- C6 passes a cell whose gain over the pre-trained model is at least 0.10, with its 95 % interval above 0.

Supported: every cell of the config passes. Partly: some do. Not: none does. A cell that was not run, or that has one
seed and so no interval, does not pass; if no cell can be judged, the verdict is "not run". The row's `low` and
`high` are of the worst cell: the one with the lowest estimate.

C3 and C4 need the bias and variance of the gradient estimates, which this pipeline does not measure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pandas as pd

from nested_reft.config import Config
from nested_reft.report.collect import nested_skips, read_table, write_table
from nested_reft.report.effects import Differences, Speedups, gains, parity, rollout_speedups, step_speedups
from nested_reft.report.statistics import Interval, equivalence
from nested_reft.report.tables import NOT_RUN, claims_markdown, write_markdown

Verdict = Literal["supported", "partly", "not", "not run"]
Cells: TypeAlias = Mapping[Any, Interval | None]  # the keys of a cell are those of `effects`

# The three variants of bias mitigation that this replication puts forward; each is a row of its own under C5.
HEADLINE_CORRECTIONS = ("base", "unit", "retrace")
MINIMUM_GAIN = 0.10
PAPER = "not available to us"
COLUMNS = ["id", "claim", "paper", "measured", "low", "high", "verdict", "figure", "command"]


@dataclass(frozen=True)
class Claim:
    """One row of the claims table; `figure` is relative to the results folder, "" where there is none."""

    id: str
    claim: str
    measured: str
    low: float | None
    high: float | None
    verdict: Verdict
    figure: str


def verdict(passes: Sequence[bool | None]) -> Verdict:
    """The verdict over a claim's cells; None is a cell that could not be judged."""
    if all(cell is None for cell in passes):
        return "not run"
    if all(passes):
        return "supported"
    return "partly" if any(passes) else "not"


def is_faster(speedup: Interval) -> bool:
    """C1, C2: the whole interval of the ratio lies above 1."""
    return speedup.low > 1


def is_on_par(difference: Interval, margin: float) -> bool:
    """C5: the whole interval of the difference lies within ±margin."""
    return equivalence(difference.low, difference.high, margin) == "equivalent"


def has_learned(gain: Interval) -> bool:
    """C6: a gain of at least `MINIMUM_GAIN`, and its whole interval above 0."""
    return gain.estimate >= MINIMUM_GAIN and gain.low > 0


def rises(speedups: Speedups, config: Config) -> bool:
    """C1: the median speed-up rises with the skip at every size, over the cells that were run."""
    for size in config.sizes:
        found = [speedups[size, skip] for skip in nested_skips(config)]
        medians = [interval.estimate for interval in found if interval]
        if any(later <= earlier for earlier, later in pairwise(medians)):
            return False
    return True


def judge(cells: Cells, rule: Callable[[Interval], bool]) -> list[bool | None]:
    """`rule` on every cell; None for a cell that was not run or has no interval."""
    return [rule(cell) if cell and cell.exists else None for cell in cells.values()]


def claim_rows(runs: pd.DataFrame, training: pd.DataFrame, throughput: pd.DataFrame, config: Config) -> list[Claim]:
    """All claims, from the tidy tables of `collect`."""
    metric = config.evaluation.headline
    rollout = {cell: speedup for cell, speedup in rollout_speedups(throughput, config).items() if cell[1]}
    faster = "Nested rollouts are faster: tokens/s rises with the share of layers skipped"
    c1 = _claim("C1", faster, rollout, is_faster, _ratio, "throughput")
    if c1.verdict == "supported" and not rises(rollout, config):
        c1 = replace(c1, verdict="partly", measured=c1.measured + "; does not rise with every skip")
    step = step_speedups(training, config)
    c2 = _claim("C2", "The whole training step is faster", step, is_faster, _ratio, "time")
    if c2.measured != NOT_RUN:
        c2 = replace(c2, measured=c2.measured + "; noisy, as training jobs share the machine")
    needs = "needs the bias and variance of the gradient estimates, which are not measured"
    c3 = Claim("C3", "The gradient estimates are unbiased", needs, None, None, "not run", "")
    c4 = Claim("C4", "The variance of the gradient estimates is controlled", needs, None, None, "not run", "")
    differences = parity(runs, config, metric)
    c5 = [_parity_claim(name, differences, config) for name in HEADLINE_CORRECTIONS]
    learns = f"Baseline ReFT learns: {metric} accuracy above the pre-trained model's, mean over benchmarks"
    c6 = _claim("C6", learns, gains(runs, config, metric), has_learned, _points, "accuracy")
    return [c1, c2, c3, c4, *c5, c6]


def write_claims(root: Path, config: Config, config_file: str | None = None) -> None:
    """Write `tables/claims.{csv,md}`; `config_file` goes into the commands where it is not Snakemake's default."""
    # After the target: Snakemake's --configfile takes every word that follows it.
    option = f" --configfile {config_file}" if config_file else ""
    runs, training, throughput = (read_table(root, name) for name in ("runs", "training", "throughput"))
    rows = []
    for claim in claim_rows(runs, training, throughput, config):
        figure = f"figures/{claim.figure}.png" if claim.figure else ""
        command = f"snakemake --cores all results/{config.experiment}/{figure}{option}" if figure else ""
        rows.append({**vars(claim), "paper": PAPER, "figure": figure, "command": command})
    table = pd.DataFrame(rows, columns=COLUMNS)
    write_table(root, "claims", table)
    write_markdown(root, "claims", claims_markdown(table, config))


def _parity_claim(name: str, differences: Differences, config: Config) -> Claim:
    """C5 for one correction; says how many cells differ for certain, which is more than not being on par."""
    margin = config.evaluation.parity_margin
    cells = {(size, dataset, skip): found for (size, dataset, of, skip), found in differences.items() if of == name}
    text = f"Nested-ReFT with '{name}' is on par with baseline ReFT: {config.evaluation.headline} accuracy, mean over "
    text += f"benchmarks, within ±{100 * margin:g} points"
    claim = _claim(f"C5-{name}", text, cells, lambda found: is_on_par(found, margin), _points, "parity")
    if claim.verdict == "not run":
        return claim
    certain = sum(equivalence(found.low, found.high, margin) == "worse" for found in cells.values() if found)
    return replace(claim, measured=f"{claim.measured}; {certain} worse for certain")


def _claim(
    claim_id: str, text: str, cells: Cells, rule: Callable[[Interval], bool], show: Callable[[float], str], figure: str
) -> Claim:
    passes = judge(cells, rule)
    found = {cell: interval for cell, interval in cells.items() if interval}
    if not found:
        return Claim(claim_id, text, NOT_RUN, None, None, "not run", figure)
    worst = min(found, key=lambda cell: found[cell].estimate)
    low = found[worst]
    judged = any(cell is not None for cell in passes)
    measured = f"{sum(map(bool, passes))} of {len(cells)} pass; worst" if judged else "one seed, so no interval; worst"
    measured += f" ({_where(worst)}): {show(low.estimate)}"
    measured += f" [{show(low.low)}, {show(low.high)}]" if low.exists else ""
    if len(found) < len(cells):
        measured += f"; {len(cells) - len(found)} not run"
    bounds = (low.low, low.high) if low.exists else (None, None)
    return Claim(claim_id, text, measured, bounds[0], bounds[1], verdict(passes), figure)


def _where(cell: tuple[str | int, ...]) -> str:
    return ", ".join(f"skip {part} %" if isinstance(part, int) else part for part in cell)


def _ratio(value: float) -> str:
    return f"{value:.2f}×"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"
