"""The figure of how nestable each model is: KL and effective sample size against skip."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from nested_reft.config.experiment import Config, nested_skips
from nested_reft.core.layer_selection import SELECTIONS
from nested_reft.report.figures.style import PALETTE, Look, dodge, legend, marker_only, not_run, nothing_run, panels
from nested_reft.report.statistics.comparisons import rollout_speedups
from nested_reft.report.statistics.intervals import Interval
from nested_reft.report.statistics.nestability import Nestability, model_names, nestability_cells

BESIDE = 0.08  # how far to the left of a mean its batches are
QUANTITIES = {"kl_k1": "KL(b ‖ π), k1,\nnats per token", "ess": "effective\nsample size"}


def nestability(table: pd.DataFrame, throughput: pd.DataFrame, config: Config) -> Figure:
    """KL (k1) and effective sample size with intervals: two rows per size, one column per model."""
    names, skips = model_names(config), nested_skips(config)
    if not names or table.empty:
        return nothing_run()
    cells, speedups = nestability_cells(table, config), rollout_speedups(throughput, config)
    strategies = config.nestability.strategies if config.nestability else ()
    looks = {name: _look(name) for name in strategies}
    offsets = dict(zip(strategies, dodge(len(strategies), 0.6), strict=True))
    figure, axes = panels(2 * len(config.sizes), len(names), (2.2, 1.5), sharex=True, sharey="row")
    for column, title in zip(axes.T, names.values(), strict=True):
        column[0].set_title(title)
    for row, (size, quantity) in zip(axes, [(s, q) for s in config.sizes for q in QUANTITIES], strict=True):
        label = QUANTITIES[quantity]
        row[0].set_ylabel(f"{size}\n{label}" if len(config.sizes) > 1 else label)
        for axis, stage in zip(row, names, strict=True):
            shown = {key: found for key, found in cells.items() if key[:2] == (size, stage)}
            if not any(shown.values()):
                not_run(axis)
            for (_, _, strategy, skip), found in shown.items():
                if found is not None:
                    _draw(axis, skips.index(skip) + offsets[strategy], found, quantity, looks[strategy])
        _scale(row[0], quantity, [found for key, found in cells.items() if key[0] == size and found])
    axes[0, 0].set_xlim(-0.5, len(skips) - 0.5)
    for axis in axes[-1]:
        axis.set_xticks(range(len(skips)), [_skip_label(skip, speedups, config) for skip in skips])
    legend(figure, [(name, marker_only(look)) for name, look in looks.items()])
    figure.supxlabel("layers skipped in the rollout (%); below, the rollout's speed-up", fontsize=8)
    return figure


def _look(strategy: str) -> Look:
    """By the place in the registry of selections, so that a strategy looks the same in every experiment."""
    return PALETTE[list(SELECTIONS).index(strategy) % len(PALETTE)]


def _skip_label(skip: int, speedups: Mapping[tuple[str, int], Interval | None], config: Config) -> str:
    measured = [speedups[size, skip] for size in config.sizes]
    return "\n".join([str(skip), *(f"{found.estimate:.2f}×" for found in measured if found is not None)])


def _draw(axis: Axes, x: float, found: Nestability, quantity: str, look: Look) -> None:
    """Every batch faint, the mean's marker, and a bar for its interval."""
    values, interval = found.by_batch[quantity], found.intervals[quantity]
    axis.scatter(np.full(len(values), x - BESIDE), values, s=6, color=look.color, alpha=0.35, lw=0)
    if interval.exists:
        axis.vlines(x, interval.low, interval.high, color=look.color, lw=1.1)
    axis.plot(x, interval.estimate, marker=look.marker, color=look.color, ls="")


def _scale(axis: Axes, quantity: str, found: list[Nestability]) -> None:
    """KL on a log scale, if there is a KL above 0; a share from 0 to 1."""
    if quantity == "ess":
        axis.set_ylim(0, 1.03)
    elif any((cell.by_batch[quantity] > 0).any() for cell in found):
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
