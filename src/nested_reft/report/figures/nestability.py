"""The figure of how nestable each model is: KL and effective sample size against skip."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nested_reft.config.experiment import Config, nested_skips
from nested_reft.core.layer_selection import SELECTIONS
from nested_reft.report.figures import style
from nested_reft.report.statistics.comparisons import rollout_speedups
from nested_reft.report.statistics.nestability import model_names, nestability_cells

BESIDE = 0.08  # how far to the left of a mean its batches are
QUANTITIES = {"kl_k1": "KL(b ‖ π), k1,\nnats per token", "ess": "effective\nsample size"}


def nestability(table: pd.DataFrame, throughput: pd.DataFrame, config: Config) -> Figure:
    """KL (k1) and effective sample size with intervals: two rows per size, one column per model."""
    names, skips, options = model_names(config), nested_skips(config), config.nestability
    if not names or options is None or table.empty:
        return style.nothing_run()
    cells, speedups = nestability_cells(table, config), rollout_speedups(throughput, config)
    offsets = dict(zip(options.strategies, style.dodge(len(options.strategies), 0.6), strict=True))
    figure, axes = style.panels(2 * len(config.sizes), len(names), (2.2, 1.5), sharex=True, sharey="row")
    for axis, title in zip(axes[0], names.values(), strict=True):
        axis.set_title(title)
    below = {
        skip: "\n".join(
            f"{size} {speedup.estimate:.2f}×" if len(config.sizes) > 1 else f"{speedup.estimate:.2f}×"
            for size in config.sizes
            if (speedup := speedups[size, skip])
        )
        for skip in skips
    }
    for row, (size, quantity) in zip(axes, product(config.sizes, QUANTITIES), strict=True):
        label = QUANTITIES[quantity]
        row[0].set_ylabel(f"{size}\n{label}" if len(config.sizes) > 1 else label)
        for axis, stage in zip(row, names, strict=True):
            style.skip_groups(axis, skips, below)
            shown = {key: found for key, found in cells.items() if key[:2] == (size, stage)}
            if not any(shown.values()):
                style.not_run(axis)
            for (_, _, strategy, skip), found in shown.items():
                if found is None:
                    continue
                x, look = skips.index(skip) + offsets[strategy], _look(strategy)
                interval = found.intervals[quantity]
                axis.scatter(np.full(interval.n, x - BESIDE), interval.units, s=6, color=look.color, alpha=0.35, lw=0)
                if interval.exists:
                    axis.vlines(x, interval.low, interval.high, color=look.color, lw=1.1)
                axis.plot(x, interval.estimate, marker=look.marker, color=look.color, ls="")
        if quantity == "ess":
            row[0].set_ylim(0, 1.03)
        elif (table.loc[table["size"] == size, quantity] > 0).any():
            style.log_scale(row[0])
    style.legend(figure, [(name, style.marker_only(_look(name))) for name in options.strategies])
    note = (
        f"Faint points: batches ({options.batches} of {options.problems_per_batch} problems × "
        f"{options.completions_per_problem} completions); markers: their mean; bars: its 95 % t interval over batches. "
        "Each batch has its own draw, if layers are drawn. Below each skip: the rollout's speed-up, timed alone."
    )
    style.finish(figure, "layers skipped in the rollout (%)", note)
    return figure


def _look(strategy: str) -> style.Look:
    """By the place in the registry of selections, so that a strategy looks the same in every experiment."""
    return style.PALETTE[list(SELECTIONS).index(strategy) % len(style.PALETTE)]
