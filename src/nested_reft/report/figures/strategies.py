"""The figure of the ways to choose the skipped layers: accuracy against the baseline, beside the off-policyness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nested_reft.config.experiment import Config
from nested_reft.report.figures.style import BASELINE, MARGIN, PRETRAINED, Look, look_of, nothing_run, panels, rows
from nested_reft.report.formatting import NOT_RUN
from nested_reft.report.statistics.comparisons import compared_strategies, strategy_parity, strategy_seeds
from nested_reft.report.statistics.intervals import (
    POSITIVE,
    SHARE,
    Array,
    Interval,
    equivalence,
    t_interval,
)


def strategies(table: pd.DataFrame, config: Config) -> Figure:
    """Accuracy minus baseline, KL (k3) and effective sample size: rows are sizes (and data sets), lines strategies."""
    names, metric, margin = compared_strategies(config), config.evaluation.headline, config.evaluation.parity_margin
    if not names or table.empty:
        return nothing_run()
    correction, skip = str(config.layer_choice.correction), config.layer_choice.skip
    found, by_seed = strategy_parity(table, config), strategy_seeds(table, config)
    cells, look = rows(config), look_of(correction)
    figure, axes = panels(len(cells), 3, (2.1, 0.26 * len(names) + 0.5), sharex="col", sharey=True)
    accuracy = f"{metric} accuracy,\nminus baseline (points)"
    titles = (accuracy, "KL(b ‖ π), k3,\nnats per token", "effective\nsample size")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    for row, (title, size, dataset) in zip(axes, cells, strict=True):
        row[0].set_ylabel(title)
        row[0].axvspan(-100 * margin, 100 * margin, color=MARGIN, lw=0)
        row[0].axvline(0, color=BASELINE.color, lw=0.8)
        chosen = table[(table["size"] == size) & (table["dataset"] == dataset) & (table["skip"] == skip)]
        for axis in row:
            axis.grid(False)
        for y, name in enumerate(names):
            difference, seeds = found[size, dataset, name], by_seed[size, dataset, name]
            if difference is None or seeds is None:
                _not_run(row[0], y)
            else:
                same = equivalence(difference.low, difference.high, margin) == "equivalent"
                _draw(row[0], y, difference, seeds, look, same, scale=100)
            for axis, quantity, scale in zip(row[1:], ("kl_k3", "ess"), (POSITIVE, SHARE), strict=True):
                values = chosen.loc[(chosen["strategy"] == name) & (chosen["metric"] == quantity), "value"]
                if values.empty:
                    _not_run(axis, y)
                else:
                    measured = values.to_numpy(dtype=np.float64)
                    _draw(axis, y, t_interval(measured, scale=scale), measured, look)
    first = axes[0, 0]
    first.set_yticks(range(len(names)), names)
    first.set_ylim(len(names) - 0.4, -0.6)
    axes[0, 1].set_xlim(left=0)
    axes[0, 1].xaxis.set_major_locator(MaxNLocator(4))
    axes[0, 2].set_xlim(0, 1.05)
    figure.supxlabel(f"correction '{correction}', {skip} % of the layers skipped", fontsize=8)
    return figure


def _draw(
    axis: Axes, y: float, found: Interval, seeds: Array, look: Look, filled: bool = True, scale: float = 1
) -> None:
    """An interval on its line with every seed below it, all times `scale`."""
    axis.scatter(scale * seeds, np.full(len(seeds), y + 0.22), s=7, color=look.color, alpha=0.45, lw=0)
    if found.exists:
        axis.hlines(y, scale * found.low, scale * found.high, color=look.color)
    face = look.color if filled else "white"
    axis.plot(scale * found.estimate, y, marker=look.marker, color=look.color, mfc=face, ls="")


def _not_run(axis: Axes, y: float) -> None:
    # In the middle of the panel, since there is no value.
    middle: dict[str, Any] = {"transform": axis.get_yaxis_transform(), "ha": "center", "va": "center"}
    axis.text(0.5, y, NOT_RUN, fontsize=7, color=PRETRAINED.color, **middle)
