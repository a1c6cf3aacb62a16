"""The figure of how far the behaviour policy is from the target."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nested_reft.config.experiment import Config, nested_cells, nested_corrections, nested_skips
from nested_reft.report.figures import style

QUANTILES = ["ratio_q01", "ratio_q05", "ratio_q50", "ratio_q95", "ratio_q99"]
TITLES = ("KL(b ‖ π), k3, nats per token", "effective sample size", "token ratio π/b")


def off_policyness(training: pd.DataFrame, config: Config) -> Figure:
    """KL (k3), effective sample size and the spread of the ratios pi/b against skip; means over a run's steps."""
    cells, skips, names = style.panel_rows(config), nested_skips(config), nested_corrections(config)
    nested = training[training["skip"] > 0]
    keys = ["size", "dataset", "correction", "skip"]
    runs = nested.groupby([*keys, "seed"], as_index=False)[["kl_k3", "ess", *QUANTILES]].mean()
    figure, axes = style.panels(len(cells), 3, (2.2, 1.7), sharex=True, sharey="col")
    for axis, title in zip(axes[0], TITLES, strict=True):
        axis.set_title(title)
    offsets = dict(zip(names, style.dodge(len(names), 0.6), strict=True))
    for row, (title, size, dataset) in zip(axes, cells, strict=True):
        chosen = runs[(runs["size"] == size) & (runs["dataset"] == dataset)]
        row[0].set_ylabel(title)
        for axis in row:
            style.skip_groups(axis, skips)
            if chosen.empty:
                style.not_run(axis)
        for name, skip in nested_cells(config):
            seeds = style.of_model(chosen, name, skip)
            if seeds.empty:
                continue
            look, x = style.look_of(name), skips.index(skip) + offsets[name]
            for axis, column in zip(row, ("kl_k3", "ess"), strict=False):
                axis.scatter(np.full(len(seeds), x), seeds[column], s=7, color=look.color, alpha=0.45, lw=0)
                axis.plot(x, seeds[column].mean(), color=look.color, marker=look.marker, ls="")
            q01, q05, q50, q95, q99 = seeds[QUANTILES].mean()
            row[2].vlines(x, q01, q99, color=look.color, lw=1)
            row[2].vlines(x, q05, q95, color=look.color, lw=3.5, alpha=0.5)
            row[2].plot(x, q50, color=look.color, marker=look.marker, ls="")
    if (runs["kl_k3"] > 0).any():
        style.log_scale(axes[0, 0])
    style.log_scale(axes[0, 2])
    style.legend(figure, [(name, style.marker_only(style.look_of(name))) for name in names])
    number = style.number_of(runs.groupby(keys).size(), "seed")
    note = (
        f"Means over the {config.training.steps} steps of a run, before clipping. Faint points: seeds ({number}); "
        "markers: their mean. Ratios: median, 5 to 95 % (thick) and 1 to 99 % (thin). Without skipping, KL is 0 and "
        "the others are 1."
    )
    style.finish(figure, "layers skipped in the rollout (%)", note)
    return figure
