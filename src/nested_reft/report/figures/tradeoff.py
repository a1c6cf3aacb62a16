"""The figure of what speed costs in accuracy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nested_reft.config.experiment import Config, nested_cells, nested_corrections, nested_skips
from nested_reft.config.run import BASELINE_CORRECTION
from nested_reft.report.figures.style import (
    BASELINE,
    MARGIN,
    dodge,
    legend,
    look_of,
    not_run,
    of_model,
    panels,
    rows,
    seeds_and_mean,
)
from nested_reft.report.statistics.comparisons import (
    benchmark_means,
    rollout_speedups,
    step_speedups,
)
from nested_reft.report.statistics.intervals import Interval

# Of the panel's width: corrections at one skip have one speed-up, and are drawn side by side around it.
SIDE_BY_SIDE = 0.07
LINE = 0.065  # of the panel's height, for the speed-up of one skip
NAMES = 0.15  # of the panel's width, for the names of these lines


def tradeoff(runs: pd.DataFrame, throughput: pd.DataFrame, step_speed: pd.DataFrame, config: Config) -> Figure:
    """Mean accuracy over benchmarks against speed-up, of the rollout and of the whole step; rows are sizes."""
    rollouts, steps = rollout_speedups(throughput, config), step_speedups(step_speed, config)
    metric = config.evaluation.headline
    scores = benchmark_means(runs, config, metric)
    cells, skips = rows(config), nested_skips(config)
    figure, axes = panels(len(cells), 2, (3.2, 2.1), sharey="row")
    for axis, title in zip(axes[0], ("rollout", "whole training step"), strict=True):
        axis.set_title(title)
    for row, (title, size, dataset) in zip(axes, cells, strict=True):
        row[0].set_ylabel(f"{title}\n{metric} accuracy (%)")
        chosen = scores[(scores["size"] == size) & (scores["dataset"] == dataset)]
        for axis, speedups in zip(row, (rollouts, steps), strict=True):
            _panel(axis, chosen, {skip: speedups[size, skip] for skip in skips}, config)
        low, high = row[0].get_ylim()  # of all panels of the row
        bottom = high - (high - low) / (1 - LINE * (len(skips) + 0.5))
        row[0].set_yticks([tick for tick in row[0].get_yticks() if 0 <= tick <= 100])  # the lines' room has none
        row[0].set_ylim(bottom, high)
    legend(figure, [("baseline ReFT", BASELINE), *((name, look_of(name)) for name in nested_corrections(config))])
    figure.supxlabel("speed-up (tokens/s over the full model's)", fontsize=8)
    return figure


def _panel(axis: Axes, scores: pd.DataFrame, speedups: Mapping[int, Interval | None], config: Config) -> None:
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    baseline = of_model(scores, BASELINE_CORRECTION, 0)
    known = {skip: speedup for skip, speedup in speedups.items() if speedup}
    if not len(baseline) or not known:
        not_run(axis)
        return
    level, margin = 100 * baseline["value"].mean(), 100 * config.evaluation.parity_margin
    axis.axhspan(max(level - margin, 0), min(level + margin, 100), color=MARGIN, lw=0)
    places = {skip: speedup.estimate for skip, speedup in known.items()}
    width = SIDE_BY_SIDE * max(np.ptp([1.0, *places.values()]), 0.01)
    seeds_and_mean(axis, 1.0, baseline, BASELINE)
    x = dict[tuple[str, int], float]()
    for skip, place in places.items():
        names = [name for name, at in nested_cells(config) if at == skip]  # one alone stands at the speed-up itself
        x |= {(name, skip): place + offset for name, offset in zip(names, dodge(len(names), width), strict=True)}
    for name in nested_corrections(config):
        measured = {skip: model for skip in known if len(model := of_model(scores, name, skip))}
        path = [(1.0, level)]
        path += [(x[name, skip], 100 * model["value"].mean()) for skip, model in measured.items()]
        axis.plot(*zip(*path, strict=True), color=look_of(name).color, linestyle=look_of(name).linestyle, lw=0.9)
        for skip, model in measured.items():
            seeds_and_mean(axis, x[name, skip], model, look_of(name))
    _speedups(axis, known)


def _speedups(axis: Axes, known: Mapping[int, Interval]) -> None:
    """Below the points, a line for each skip: its name at the left, and its speed-up with the interval."""
    where = axis.get_xaxis_transform()
    first, last = axis.get_xlim()  # of the points
    for place, (skip, speedup) in enumerate(known.items()):
        y = LINE * (len(known) - place - 0.4)
        if speedup.exists:
            axis.plot([speedup.low, speedup.high], [y, y], color=BASELINE.color, lw=0.8, transform=where)
        axis.plot(speedup.estimate, y, "|", color=BASELINE.color, markersize=4, transform=where)
        beneath = {"facecolor": "white", "lw": 0, "pad": 0.8}  # the interval may reach the edge
        axis.text(0.015, y, f"skip {skip} %", transform=axis.transAxes, va="center", fontsize=6, bbox=beneath)
    # With two seeds an interval may reach a thousandfold; it is cut off before the points would be lost.
    lowest, highest = axis.get_xlim()
    first, last = max(lowest, first - (last - first)), min(highest, last + (last - first))
    axis.set_xlim(first - NAMES * (last - first), last)
