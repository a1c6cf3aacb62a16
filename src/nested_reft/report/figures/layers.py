"""The figure of which layers the rollouts left out, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nested_reft.config.experiment import Config, nested_cells, nested_skips
from nested_reft.report.figures import style
from nested_reft.report.statistics.comparisons import compared_strategies

KEPT_OR_NOT = ListedColormap([style.MARGIN, style.PALETTE[0].color])
MOST_SHARES = 14  # layers whose shares are printed beside the map; more would not be readable


def layers(table: pd.DataFrame, config: Config) -> Figure:
    """Layer against step, dark if left out, one run per panel: rows are sizes, columns skips, then other strategies."""
    first = config.layer_choice.strategies[0]
    columns: list[tuple[int, str]] = [(skip, first) for skip in nested_skips(config)]
    columns += [(config.layer_choice.skip or 0, name) for name in compared_strategies(config)[1:]]
    tallest = max(model.layers for model in config.sizes.values())
    shape = (1.6, min(0.8 + 0.09 * tallest, 2.4))
    figure, axes = style.panels(len(config.sizes), max(len(columns), 1), shape, sharex=True, sharey="row")
    seed, dataset = config.seeds[0], next(iter(config.datasets))
    chosen = table[(table["seed"] == seed) & (table["dataset"] == dataset)]
    for row, (size, model) in zip(axes, config.sizes.items(), strict=True):
        row[0].set_ylabel(f"{size}\nlayer")
        for axis, (skip, strategy) in zip(row, columns, strict=False):
            if axis in axes[0]:
                axis.set_title(f"skip {skip} %" if strategy == first else f"skip {skip} %, {strategy}")
            of = chosen[(chosen["size"] == size) & (chosen["skip"] == skip) & (chosen["strategy"] == strategy)]
            # One run: the layers do not depend on the correction, unless training itself influences them.
            _map(axis, of[of["correction"] == _shown_correction(config, skip, strategy == first)], model.layers)
        if not columns:
            style.not_run(row[0])
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    left, kept = style.band(style.PALETTE[0].color, "left out"), style.band(style.MARGIN, "kept")
    style.legend(figure, [left, kept] if columns else [])
    note = (
        f"One run per panel: seed {seed}, data set {dataset}; a random draw depends on seed and step only, so runs of "
        "all corrections leave out the same layers. Beside each layer, counted from 0: the share of steps without it."
    )
    style.finish(figure, "training step", note)
    return figure


def left_out(table: pd.DataFrame, num_layers: int) -> np.ndarray:
    """Which layers each step of one run left out, (layers, steps) bool."""
    steps = table.sort_values("step")["skipped_layers"]
    skipped = np.zeros((num_layers, len(steps)), dtype=bool)
    for column, names in enumerate(steps):
        skipped[[int(name) for name in names.split()], column] = True
    return skipped


def _shown_correction(config: Config, skip: int, of_grid: bool) -> str | None:
    """The first correction of the grid's runs at a skip; the runs of the compared strategies have only one."""
    if not of_grid:
        return config.layer_choice.correction
    return next((name for name, at in nested_cells(config) if at == skip), None)


def _map(axis: Axes, table: pd.DataFrame, num_layers: int) -> None:
    axis.grid(False)
    axis.set_ylim(-0.5, num_layers - 0.5)
    axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    if table.empty:
        style.not_run(axis)
        return
    skipped = left_out(table, num_layers)
    how: dict[str, Any] = {"vmin": 0, "vmax": 1, "aspect": "auto", "origin": "lower", "interpolation": "nearest"}
    axis.imshow(skipped, KEPT_OR_NOT, extent=(0.5, skipped.shape[1] + 0.5, -0.5, num_layers - 0.5), **how)
    for edge in np.arange(0.5, num_layers - 1):
        axis.axhline(edge, color=style.PAPER, lw=0.8)
    if num_layers <= MOST_SHARES:
        for layer, share in enumerate(skipped.mean(axis=1)):
            axis.text(
                1.02, layer, f"{100 * share:.0f} %", transform=axis.get_yaxis_transform(), va="center", fontsize=5.5
            )
