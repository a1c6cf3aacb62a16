"""The main figure: what speed costs in accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nested_reft.config.experiment import Config, nested_corrections, nested_skips
from nested_reft.report.figures import style
from nested_reft.report.statistics.comparisons import mean_differences, rollout_speedups, step_speedups
from nested_reft.report.statistics.intervals import Array, Interval

FRONT = "retrace"  # is drawn over the other corrections
NAMES = 0.38  # of the points' width, for the names of the corrections at their right
APART = 0.08  # of the panel's height, from one name to the next


def tradeoff(runs: pd.DataFrame, throughput: pd.DataFrame, step_speed: pd.DataFrame, config: Config) -> Figure:
    """Accuracy minus the baseline's against speed-up, of the rollout and of the whole step; rows are sizes."""
    metric, margin = config.evaluation.headline, config.evaluation.parity_margin
    differences, cells = mean_differences(runs, config, metric), style.panel_rows(config)
    speeds = {"rollout": rollout_speedups(throughput, config), "whole training step": step_speedups(step_speed, config)}
    measured = [name for name, speedups in speeds.items() if any(speedups.values())] or list(speeds)
    figure, axes = style.panels(len(cells), len(measured), (6.4 / max(len(measured), 1.4), 2.0), sharey=True)
    bounds = [bound for found in differences.values() if found for bound in _bounds(found)]
    low, high = min([-margin, *bounds]), max([margin, *bounds])
    room = 100 * (high - low) * np.array([-0.05, 0.15])  # above, for the names of the skips
    axes[0, 0].set_ylim(100 * low + room[0], 100 * high + room[1])
    for row, (title, size, dataset) in zip(axes, cells, strict=True):
        row[0].set_ylabel(f"{title}\naccuracy minus\nbaseline's (points)")
        found = {key[2:]: cell for key, cell in differences.items() if key[:2] == (size, dataset)}
        for axis, name in zip(row, measured, strict=True):
            if axis in axes[0]:
                axis.set_title(name)
            _panel(axis, found, {skip: speeds[name][size, skip] for skip in nested_skips(config)}, config)
    baseline = "baseline ReFT", style.marker_only(style.BASELINE)
    style.legend(figure, [baseline, style.band(style.MARGIN, f"within ±{100 * margin:g} points")])
    pairs = style.number_of((found.n for of in speeds.values() for found in of.values() if found), "pair")
    seeds = style.number_of((found.n for found in differences.values() if found), "seed")
    note = (
        f"{metric.capitalize()} accuracy, mean over {style.number_of([len(config.benchmarks)], 'benchmark')}, "
        f"paired by seed ({seeds}); vertical bars: 95 % t interval over seeds, thick and pale "
        "only where they stand behind others. Not judged here: "
        "parity is judged benchmark by benchmark, in its own figure. Speed-ups timed alone "
        f"({pairs} of each), the same for all corrections; horizontal bars: 95 % bootstrap interval."
    )
    missing = [f" Speed-up of the {name}: not run." for name in speeds if name not in measured]
    style.finish(figure, "speed-up over the full model", "".join([note, *missing]))
    return figure


def _panel(
    axis: Axes,
    found: Mapping[tuple[str, int], Interval | None],
    speedups: Mapping[int, Interval | None],
    config: Config,
) -> None:
    margin = config.evaluation.parity_margin
    axis.grid(False)
    axis.axhspan(-100 * margin, 100 * margin, color=style.MARGIN, lw=0)
    axis.axhline(0, xmax=0.8, color=style.INK, lw=0.8)  # leaves the place of the names free
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    points = {
        name: {skip: (x, y) for (of, skip), y in found.items() if of == name and y and (x := speedups[skip])}
        for name in sorted(nested_corrections(config), key=FRONT.__eq__)
    }
    if not any(points.values()):
        style.not_run(axis)
        return
    axis.plot(1, 0, marker=style.BASELINE.marker, color=style.BASELINE.color, ls="", zorder=5)
    for front, (name, of_name) in enumerate(points.items(), start=1 - len(points)):  # 0 is the front
        look, order = style.look_of(name), 3 + 0.1 * front
        path = [(1.0, 0.0), *sorted((x.estimate, 100 * y.estimate) for x, y in of_name.values())]
        axis.plot(*zip(*path, strict=True), color=look.color, ls=look.linestyle, lw=0.9, zorder=order + 0.02)
        for x, y in of_name.values():
            if y.exists:  # the bars of one skip stand at one place, the wider behind
                width, alpha = 1.1 - 1.7 * front, 0.4 if front else 1
                bounds = 100 * y.low, 100 * y.high
                axis.vlines(x.estimate, *bounds, color=look.color, lw=width, alpha=alpha, zorder=order)
            axis.plot(x.estimate, 100 * y.estimate, ls="", color=look.color, marker=look.marker, zorder=order + 0.04)
    for skip, speedup in speedups.items():
        tops = [100 * max(_bounds(of_name[skip][1])) for of_name in points.values() if skip in of_name]
        if speedup and tops:
            top = max(tops) + 0.02 * np.ptp(axis.get_ylim())
            if speedup.exists:
                axis.hlines(top, speedup.low, speedup.high, color=style.INK, lw=0.8)
            _write(axis, speedup.estimate, top, f"skip {skip} %", 2)
    places = [1.0, *(x.estimate for of_name in points.values() for x, _ in of_name.values())]
    width = max(np.ptp(places), 0.01)
    # An interval that reaches far beyond the points is cut off, as the points would be lost.
    axis.set_xlim(min(places) - 0.14 * width, max(places) + NAMES * width)
    ends = {name: 100 * of_name[max(of_name)][1].estimate for name, of_name in points.items() if of_name}
    names = sorted(ends, key=lambda name: ends[name])
    heights = spread([ends[name] for name in names], APART * np.ptp(axis.get_ylim()))
    for name, height in zip(names, heights, strict=True):
        how: dict[str, Any] = {"transform": axis.get_yaxis_transform(), "ha": "right", "va": "center", "fontsize": 7.5}
        axis.text(0.99, height, name, color=style.look_of(name).color, **how)


def _bounds(found: Interval) -> tuple[float, ...]:
    return (found.low, found.high) if found.exists else (found.estimate,)


def _write(axis: Axes, x: float, y: float, text: str, offset: float) -> None:
    """A text `offset` points above a place."""
    how: dict[str, Any] = {"textcoords": "offset points", "fontsize": 6.5, "ha": "center", "va": "bottom"}
    axis.annotate(text, (x, y), (0, offset), zorder=6, **how)


def spread(heights: Sequence[float], apart: float) -> Array:
    """Rising heights, with each at least `apart` above the one before, and the same mean."""
    moved = np.array(heights, dtype=np.float64)
    for place in range(1, len(moved)):
        moved[place] = max(moved[place], moved[place - 1] + apart)
    moved -= np.mean(moved - heights)
    return moved
