"""The paper's claims, what was measured of each, and a verdict by rule.

A claim is judged cell by cell; a cell is a size, with a data set and a skip if the claim has them. A cell passes if

- C1, C2: the whole 95 % interval of the speed-up is above 1. C1 is supported only if the median also rises with the
  skip at every size.
- C3: the whole 95 % interval of the gradient estimate's relative bias is within `bias_margin`.
- C4: the whole 95 % interval of the variance ratio (over the on-policy estimate) is at or below `variance_limit`.
- C5: the whole 95 % interval of the difference from the baseline is within ±`parity_margin`.
- C6: the gain over the pre-trained model is at least 0.10, and its whole 95 % interval is above 0.

C3, C4 and C5 have one row per correction.

Supported: every cell of the config passes. Partly: some do. Not: none does. A cell that was not run, or that has no
interval (one seed; a gradient lost in its noise), does not pass; if no cell can be judged, the verdict is "not run".
The row's `low` and `high` are those of the worst cell: the one with the lowest estimate, for C3 and C4 the highest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import pandas as pd

from nested_reft.config.experiment import Config, nested_skips
from nested_reft.report.formatting import NOT_RUN
from nested_reft.report.statistics.comparisons import (
    Differences,
    GradientEffects,
    Speedups,
    gains,
    gradient_biases,
    gradient_variances,
    parity,
    rollout_speedups,
    step_speedups,
)
from nested_reft.report.statistics.gradients import bias_verdict, is_controlled
from nested_reft.report.statistics.intervals import Interval, equivalence

Verdict = Literal["supported", "partly", "not", "not run"]
Cells: TypeAlias = Mapping[Any, Interval | None]  # the keys of a cell are those of `comparisons`

# The three variants of bias mitigation that this replication puts forward; each has its own row under C5.
HEADLINE_CORRECTIONS = ("base", "unit", "retrace")
MINIMUM_GAIN = 0.10


@dataclass(frozen=True)
class Claim:
    """One row of the claims table; `figure` is a figure's name, `cells` and `passes` are what it was judged on."""

    id: str
    claim: str
    measured: str
    low: float | None
    high: float | None
    verdict: Verdict
    figure: str
    cells: Cells
    passes: tuple[bool | None, ...]


def verdict(passes: Sequence[bool | None]) -> Verdict:
    """The verdict over a claim's cells; None is a cell that could not be judged."""
    if all(cell is None for cell in passes):
        return "not run"
    if all(passes):
        return "supported"
    return "partly" if any(passes) else "not"


def is_faster(speedup: Interval) -> bool:
    """C1, C2: the whole interval of the ratio is above 1."""
    return speedup.low > 1


def is_on_par(difference: Interval, margin: float) -> bool:
    """C5: the whole interval of the difference is within ±margin."""
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


def claim_rows(
    runs: pd.DataFrame, training: pd.DataFrame, throughput: pd.DataFrame, gradients: pd.DataFrame, config: Config
) -> list[Claim]:
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
    biases, variances = gradient_biases(gradients, config), gradient_variances(gradients, config)
    c3 = [_bias_claim(name, biases, config) for name in config.gradients.corrections]
    c4 = [_variance_claim(name, variances, config) for name in config.gradients.corrections]
    differences = parity(runs, config, metric)
    c5 = [_parity_claim(name, differences, config) for name in HEADLINE_CORRECTIONS]
    learns = f"Baseline ReFT learns: {metric} accuracy above the pre-trained model's, mean over benchmarks"
    c6 = _claim("C6", learns, gains(runs, config, metric), has_learned, _points, "accuracy")
    return [c1, c2, *c3, *c4, *c5, c6]


def _bias_claim(name: str, biases: GradientEffects, config: Config) -> Claim:
    """C3 for one correction; also counts the cells that are certainly biased: more than not being shown unbiased."""
    margin = config.gradients.bias_margin
    cells = _of_correction(name, biases)
    text = f"The gradient estimate with '{name}' is unbiased: within {100 * margin:g} % of the on-policy gradient"
    claim = _claim(
        f"C3-{name}",
        text,
        cells,
        lambda found: bias_verdict(found, margin) == "unbiased",
        _share,
        "gradients",
        max,
        "not resolved",
    )
    certain = sum(bias_verdict(found, margin) == "biased" for found in cells.values() if found)
    return _with_certain(claim, certain, "biased")


def _variance_claim(name: str, variances: GradientEffects, config: Config) -> Claim:
    """C4 for one correction; also counts the cells that are certainly above the limit."""
    limit = config.gradients.variance_limit
    cells = _of_correction(name, variances)
    text = f"The variance of the gradient estimate with '{name}' is controlled: at most {limit:g}× the on-policy one's"
    claim = _claim(
        f"C4-{name}", text, cells, lambda found: is_controlled(found, limit), _ratio, "gradients", max, "not resolved"
    )
    certain = sum(found.low > limit for found in cells.values() if found)
    return _with_certain(claim, certain, "above the limit")


def _of_correction(name: str, effects: GradientEffects) -> dict[tuple[str, int], Interval | None]:
    return {(size, skip): found for (size, of, skip), found in effects.items() if of == name}


def _with_certain(claim: Claim, cells: int, what: str) -> Claim:
    if claim.verdict == "not run":
        return claim
    return replace(claim, measured=f"{claim.measured}; {cells} {what} for certain")


def _parity_claim(name: str, differences: Differences, config: Config) -> Claim:
    """C5 for one correction; also counts the cells that are certainly worse: more than not being shown on par."""
    margin = config.evaluation.parity_margin
    cells = {(size, dataset, skip): found for (size, dataset, of, skip), found in differences.items() if of == name}
    text = f"Nested-ReFT with '{name}' is on par with baseline ReFT: {config.evaluation.headline} accuracy, mean over "
    text += f"benchmarks, within ±{100 * margin:g} points"
    claim = _claim(f"C5-{name}", text, cells, lambda found: is_on_par(found, margin), _points, "parity")
    certain = sum(equivalence(found.low, found.high, margin) == "worse" for found in cells.values() if found)
    return _with_certain(claim, certain, "worse")


def _claim(
    claim_id: str, text: str, cells: Cells, rule: Callable[[Interval], bool], show: Callable[[float], str], figure: str,
    worst_of: Callable[..., Any] = min, no_interval: str = "one seed, so no interval",
) -> Claim:  # fmt: skip
    """A claim judged over `cells`; `worst_of` picks the worst estimate, `no_interval` says why a cell has none."""
    passes = judge(cells, rule)
    found = {cell: interval for cell, interval in cells.items() if interval}
    if not found:
        return Claim(claim_id, text, NOT_RUN, None, None, "not run", figure, cells, tuple(passes))
    judged = any(cell is not None for cell in passes)
    parts = [f"{sum(map(bool, passes))} of {len(cells)} pass" if judged else no_interval]
    known = {cell: interval for cell, interval in found.items() if not math.isnan(interval.estimate)}
    low = high = None
    if known:
        where = worst_of(known, key=lambda cell: known[cell].estimate)
        worst = known[where]
        parts.append(f"worst ({_where(where)}): {show(worst.estimate)}")
        if worst.exists:
            low, high = worst.low, worst.high
            parts[-1] += f" [{show(low)}, {show(high)}]"
    unresolved = sum(not interval.exists for interval in found.values()) if judged else 0
    parts += [f"{unresolved} without interval"] if unresolved else []
    parts += [f"{len(cells) - len(found)} not run"] if len(found) < len(cells) else []
    return Claim(claim_id, text, "; ".join(parts), low, high, verdict(passes), figure, cells, tuple(passes))


def _where(cell: tuple[str | int, ...]) -> str:
    return ", ".join(f"skip {part} %" if isinstance(part, int) else part for part in cell)


def _ratio(value: float) -> str:
    return f"{value:.2f}×"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
