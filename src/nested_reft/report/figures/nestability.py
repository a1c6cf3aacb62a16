"""The figures of how nestable each model is: by choice of layers, and by size."""

from __future__ import annotations

from itertools import product
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nested_reft.config.experiment import Config, nested_skips
from nested_reft.core.layer_selection import SELECTIONS, num_skipped
from nested_reft.report.figures import style
from nested_reft.report.statistics.comparisons import rollout_speedups
from nested_reft.report.statistics.nestability import choice_names, model_names, nestability_cells

BESIDE = 0.08  # how far to the left of a mean its batches are
ASIDE = 0.4  # the same in the figure by size, in percent of the layers
COLUMNS = 3  # of panels by choice of layers
QUANTITIES = {"kl_k1": "KL(b ‖ π), k1,\nnats per token", "ess": "effective\nsample size"}


def nestability(table: pd.DataFrame, throughput: pd.DataFrame, config: Config) -> Figure:
    """KL (k1) and effective sample size with intervals: two rows per size, one column per model."""
    names, skips, options = model_names(config), nested_skips(config), config.nestability
    if not names or options is None or table.empty:
        return style.nothing_run()
    cells, speedups = nestability_cells(table, config), rollout_speedups(throughput, config)
    choices = list(choice_names(config).values())
    offsets = dict(zip(choices, style.dodge(len(choices), 0.6), strict=True))
    looks = {name: _look(strategy, border, config) for (strategy, border), name in choice_names(config).items()}
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
            for (_, _, choice, skip), found in shown.items():
                if found is None:
                    continue
                x, look = skips.index(skip) + offsets[choice], looks[choice]
                interval = found.intervals[quantity]
                axis.scatter(np.full(interval.n, x - BESIDE), interval.units, s=6, color=look.color, alpha=0.35, lw=0)
                if interval.exists:
                    axis.vlines(x, interval.low, interval.high, color=look.color, lw=1.1)
                axis.plot(x, interval.estimate, marker=look.marker, color=look.color, ls="")
        if quantity == "ess":
            row[0].set_ylim(0, 1.03)
        elif (table.loc[table["size"] == size, quantity] > 0).any():
            style.log_scale(row[0])
    style.legend(figure, [(name, style.marker_only(look)) for name, look in looks.items()])
    note = (
        f"Faint points: batches ({options.batches} of {options.problems_per_batch} problems × "
        f"{options.completions_per_problem} completions); markers: their mean; bars: its 95 % t interval over batches. "
        "Each batch has its own draw, if layers are drawn."
        + (" Below each skip: the rollout's speed-up, timed alone." if any(below.values()) else "")
    )
    style.finish(figure, "layers skipped in the rollout (%)", note)
    return figure


def nestability_by_size(table: pd.DataFrame, config: Config) -> Figure:
    """Effective sample size against the share of layers left out, a line per size: a panel per choice of layers, and a
    row of them per model if there are several.
    """
    names, skips, options = model_names(config), nested_skips(config), config.nestability
    if not names or not skips or options is None or table.empty:
        return style.nothing_run()
    cells, choices = nestability_cells(table, config), list(choice_names(config).values())
    shown = [(stage, choice) for stage in names for choice in choices]
    columns = min(len(choices), COLUMNS)
    figure, axes = style.panels(ceil(len(shown) / columns), columns, (2.3, 1.9), sharex=True, sharey=True)
    most = max(num_skipped(model.layers, skip) / model.layers for model in config.sizes.values() for skip in skips)
    looks = dict(zip(config.sizes, style.PALETTE, strict=False))
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    for axis, (stage, choice) in zip(axes.flat, shown, strict=False):
        axis.set_title(f"{names[stage]}, {choice}" if len(names) > 1 else choice)
        axis.set_xlim(0, 100 * most + 1.5)
        axis.set_ylim(0, 1.03)
        axis.xaxis.set_tick_params(labelbottom=True)
        for size, look in looks.items():
            layers = config.sizes[size].layers
            found = [cell for skip in skips if (cell := cells[size, stage, choice, skip])]
            shares = [100 * cell.num_skipped / layers for cell in found]
            axis.plot([0, *shares], [1, *(cell.intervals["ess"].estimate for cell in found)], **_line(look))
            for share, interval in zip(shares, (cell.intervals["ess"] for cell in found), strict=True):
                axis.scatter(np.full(interval.n, share - ASIDE), interval.units, s=7, color=look.color, alpha=0.3, lw=0)
                if interval.exists:
                    axis.vlines(share, interval.low, interval.high, color=look.color, lw=1.8)
        if not any(cells[size, stage, choice, skip] for size in looks for skip in skips):
            style.not_run(axis)
    for row in axes:
        row[0].set_ylabel("effective sample size")
    style.legend(figure, [(f"{size}, {config.sizes[size].layers} layers", look) for size, look in looks.items()])
    note = (
        f"Faint points: batches ({options.batches} of {options.problems_per_batch} problems × "
        f"{options.completions_per_problem} completions), each with its own draw of layers if they are drawn; markers: "
        "their mean; bars: its 95 % t interval over batches. With no layer left out it is 1."
    )
    style.finish(figure, "share of the layers that the rollout leaves out (%)", note)
    return figure


def _line(look: style.Look) -> dict[str, Any]:
    """A line with a marker at each measured point, and none where nothing is left out."""
    return {"color": look.color, "ls": look.linestyle, "marker": look.marker, "markevery": slice(1, None), "lw": 1.2}


def _look(strategy: str, border: int, config: Config) -> style.Look:
    """By the place in the registry of selections, so that a strategy looks the same in every experiment; other borders
    come after all strategies.
    """
    options, place = config.nestability, list(SELECTIONS).index(strategy)
    if options is not None and border != config.training.border:
        place = len(SELECTIONS) + options.borders.index(border)
    return style.PALETTE[place % len(style.PALETTE)]
