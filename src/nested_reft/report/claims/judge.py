"""The paper's claims, what was measured of each, and a verdict by rule (`rules`).

A claim is judged cell by cell; a cell is a size, with a data set and a skip if the claim has them. C3, C4 and C5 have
one row per correction. A cell that was not run, or that has no interval (one seed; a gradient lost in its noise), is
not judged, and the claim is then not supported. The row's `low` and `high` are those of the worst cell: the one with
the lowest estimate, for C3 and C4 the highest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pandas as pd

from nested_reft.config.experiment import Config, stages
from nested_reft.config.run import STAGES
from nested_reft.report.claims.rules import (
    CellVerdict,
    Rule,
    Verdict,
    has_learned,
    is_at_most,
    is_faster,
    is_on_par,
    rises,
    verdict,
)
from nested_reft.report.formatting import NOT_RUN
from nested_reft.report.statistics.comparisons import (
    Differences,
    GradientEffects,
    gains,
    gradient_biases,
    gradient_variances,
    parity,
    rollout_speedups,
    step_speedups,
)
from nested_reft.report.statistics.intervals import Interval, against_zero

Cells: TypeAlias = Mapping[Any, Interval | None]  # the keys of a cell are those of `comparisons`

# The three variants of bias mitigation that this replication puts forward; each has its own row under C5.
HEADLINE_CORRECTIONS = ("base", "unit", "retrace")


@dataclass(frozen=True)
class Claim:
    """One row of the claims table; `figure` is a figure's name, `cells` are what it was judged on, `judged` how."""

    id: str
    claim: str
    measured: str
    low: float | None
    high: float | None
    verdict: Verdict
    figure: str
    cells: Cells
    judged: tuple[CellVerdict | None, ...]


def judge(cells: Cells, rule: Rule) -> list[CellVerdict | None]:
    """`rule` on every cell; None for a cell that was not run or has no interval."""
    return [rule(cell) if cell and cell.exists else None for cell in cells.values()]


def claim_rows(
    runs: pd.DataFrame, step_speed: pd.DataFrame, throughput: pd.DataFrame, gradients: pd.DataFrame, config: Config
) -> list[Claim]:
    """All claims, from the tidy tables of `collect`."""
    metric = config.evaluation.headline
    rollout = {cell: speedup for cell, speedup in rollout_speedups(throughput, config).items() if cell[1]}
    faster = "Nested rollouts are faster: tokens/s rises with the share of layers skipped"
    c1 = _claim("C1", faster, rollout, is_faster, _ratio, "throughput")
    rising = rises(rollout, config)
    if c1.verdict == "supported" and rising != "passes":
        text = "; does not rise with every skip" if rising == "fails" else "; not shown to rise with every skip"
        c1 = replace(c1, verdict="partly" if rising == "fails" else "inconclusive", measured=c1.measured + text)
    c2 = _claim("C2", "The whole training step is faster", step_speedups(step_speed, config), is_faster, _ratio, "time")
    biases, variances = gradient_biases(gradients, config), gradient_variances(gradients, config)
    c3 = [_bias_claim(name, biases, config) for name in config.gradients.corrections]
    c4 = [_variance_claim(name, variances, config) for name in config.gradients.corrections]
    differences = parity(runs, config, metric)
    c5 = [_parity_claim(name, differences, config) for name in HEADLINE_CORRECTIONS]
    start = STAGES[stages(config)[-1]]
    learns = f"Baseline ReFT learns: {metric} accuracy above the {start} model's, mean over benchmarks"
    c6 = _claim("C6", learns, gains(runs, config, metric), has_learned, _points, "accuracy")
    return [c1, c2, *c3, *c4, *c5, c6]


def _bias_claim(name: str, biases: GradientEffects, config: Config) -> Claim:
    """C3 for one correction."""
    margin = config.gradients.bias_margin
    text = f"The gradient estimate with '{name}' is unbiased: within {100 * margin:g} % of the on-policy gradient"
    return _gradient_claim(f"C3-{name}", text, _of_correction(name, biases), margin, _share)


def _variance_claim(name: str, variances: GradientEffects, config: Config) -> Claim:
    """C4 for one correction."""
    limit = config.gradients.variance_limit
    text = f"The variance of the gradient estimate with '{name}' is controlled: at most {limit:g}× the on-policy one's"
    return _gradient_claim(f"C4-{name}", text, _of_correction(name, variances), limit, _ratio)


def _gradient_claim(claim_id: str, text: str, cells: Cells, limit: float, show: Callable[[float], str]) -> Claim:
    return _claim(claim_id, text, cells, lambda found: is_at_most(found, limit), show, "gradients", max, "not resolved")


def _of_correction(name: str, effects: GradientEffects) -> dict[tuple[str, int], Interval | None]:
    return {(size, skip): found for (size, of, skip), found in effects.items() if of == name}


def _parity_claim(name: str, differences: Differences, config: Config) -> Claim:
    """C5 for one correction; says two facts of its cells: how many are beyond the margin, and on which side of 0."""
    margin = config.evaluation.parity_margin
    cells = {(size, dataset, skip): found for (size, dataset, of, skip), found in differences.items() if of == name}
    text = f"Nested-ReFT with '{name}' is on par with baseline ReFT: {config.evaluation.headline} accuracy, mean over "
    text += f"benchmarks, within ±{100 * margin:g} points"
    claim = _claim(f"C5-{name}", text, cells, lambda found: is_on_par(found, margin), _points, "parity")
    if claim.verdict == "not run":
        return claim
    beyond = sum(cell == "fails" for cell in claim.judged)
    sides = Counter(against_zero(found.low, found.high) for found in cells.values() if found)
    facts = f"{beyond} beyond the margin; {sides['below 0']} below 0, {sides['above 0']} above 0"
    return replace(claim, measured=f"{claim.measured}; {facts}")


def _claim(
    claim_id: str, text: str, cells: Cells, rule: Rule, show: Callable[[float], str], figure: str,
    worst_of: Callable[..., Any] = min, no_interval: str = "one seed, so no interval",
) -> Claim:  # fmt: skip
    """A claim judged over `cells`; `worst_of` picks the worst estimate, `no_interval` says why a cell has none."""
    judged = tuple(judge(cells, rule))
    found = {cell: interval for cell, interval in cells.items() if interval}
    if not found:
        return Claim(claim_id, text, NOT_RUN, None, None, "not run", figure, cells, judged)
    parts = [_counts(judged) if any(judged) else no_interval]
    known = {cell: interval for cell, interval in found.items() if not math.isnan(interval.estimate)}
    low = high = None
    if known:
        where = worst_of(known, key=lambda cell: known[cell].estimate)
        worst = known[where]
        parts.append(f"worst ({_where(where)}): {show(worst.estimate)}")
        if worst.exists:
            low, high = worst.low, worst.high
            parts[-1] += f" [{show(low)}, {show(high)}]"
    unresolved = sum(not interval.exists for interval in found.values()) if any(judged) else 0
    parts += [f"{unresolved} without interval"] if unresolved else []
    parts += [f"{len(cells) - len(found)} not run"] if len(found) < len(cells) else []
    return Claim(claim_id, text, "; ".join(parts), low, high, verdict(judged), figure, cells, judged)


def _counts(judged: tuple[CellVerdict | None, ...]) -> str:
    """ "3 of 6 pass, 1 fail, 2 undecided"; what no cell is, is left out."""
    counts = Counter(judged)
    texts = [f"{counts['passes']} of {len(judged)} pass"]
    texts += [f"{counts['fails']} fail"] if counts["fails"] else []
    texts += [f"{counts['undecided']} undecided"] if counts["undecided"] else []
    return ", ".join(texts)


def _where(cell: tuple[str | int, ...]) -> str:
    return ", ".join(f"skip {part} %" if isinstance(part, int) else part for part in cell)


def _ratio(value: float) -> str:
    return f"{value:.2f}×"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
