"""The figure of how far the behaviour policy is from the target."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nested_reft.config.experiment import Config, nested_corrections, nested_skips
from nested_reft.report.figures.style import (
    BASELINE,
    dodge,
    legend,
    look_of,
    marker_only,
    not_run,
    panels,
    ratio_scale,
    rows,
)


def off_policyness(training: pd.DataFrame, config: Config) -> Figure:
    """KL (k3), effective sample size and the spread of the ratios pi/b against skip; means over a run's steps."""
    cells, skips = rows(config), [0, *nested_skips(config)]
    quantiles = ["ratio_q01", "ratio_q05", "ratio_q50", "ratio_q95", "ratio_q99"]
    wanted = ["kl_k3", "ess", *quantiles]
    by_run = training.groupby(["size", "dataset", "correction", "skip", "seed"], as_index=False)[wanted].mean()
    figure, axes = panels(len(cells), 3, (2.2, 1.7), sharex=True, sharey="col")
    for axis, quantity in zip(
        axes[0], ("KL(b ‖ π), k3, nats per token", "effective sample size", "token ratio π/b"), strict=True
    ):
        axis.set_title(quantity)
    offsets = dict(zip(config.corrections, dodge(len(config.corrections), 0.6), strict=True))
    places = {skip: place for place, skip in enumerate(skips)}
    for row, (title, size, dataset) in zip(axes, cells, strict=True):
        chosen = by_run[(by_run["size"] == size) & (by_run["dataset"] == dataset)]
        row[0].set_ylabel(title)
        for axis in row:
            axis.set_xticks(range(len(skips)), [str(skip) for skip in skips])
            if chosen.empty:
                not_run(axis)
        for skip, correction, seeds in _by_cell(chosen):
            nested = skip != 0
            look = look_of(correction) if nested else BASELINE
            x = places[skip] + (offsets[correction] if nested else 0.0)
            for axis, column in zip(row, ("kl_k3", "ess"), strict=False):
                axis.scatter(np.full(len(seeds), x), seeds[column], s=7, color=look.color, alpha=0.45, lw=0)
                axis.plot(x, seeds[column].mean(), color=look.color, marker=look.marker, ls="")
            q01, q05, q50, q95, q99 = seeds[quantiles].mean()
            row[2].vlines(x, q01, q99, color=look.color, lw=1)
            row[2].vlines(x, q05, q95, color=look.color, lw=3.5, alpha=0.5)
            row[2].plot(x, q50, color=look.color, marker=look.marker, ls="")
    for axis in axes[:, 2]:
        ratio_scale(axis)
    entries = [("baseline ReFT", BASELINE), *((name, look_of(name)) for name in nested_corrections(config))]
    legend(figure, [(label, marker_only(look)) for label, look in entries])
    figure.supxlabel("layers skipped in the rollout (%)", fontsize=8)
    return figure


def _by_cell(table: pd.DataFrame) -> Iterator[tuple[int, str, pd.DataFrame]]:
    for skip, at_skip in table.groupby("skip", sort=False):
        for correction, seeds in at_skip.groupby("correction", sort=False):
            yield int(str(skip)), str(correction), seeds
