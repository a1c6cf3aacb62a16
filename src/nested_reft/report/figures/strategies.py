"""The figure of the layer-selection strategies: accuracy against the baseline, beside the off-policyness."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nested_reft.config.experiment import Config
from nested_reft.report.figures import style
from nested_reft.report.statistics.comparisons import compared_strategies, strategy_parity
from nested_reft.report.statistics.intervals import POSITIVE, SHARE, t_interval


def strategies(table: pd.DataFrame, config: Config) -> Figure:
    """Accuracy minus baseline, KL (k3) and effective sample size: rows are sizes (and data sets), lines strategies."""
    names, metric, margin = compared_strategies(config), config.evaluation.headline, config.evaluation.parity_margin
    if not names or table.empty:
        return style.nothing_run()
    correction, skip = str(config.layer_choice.correction), config.layer_choice.skip
    found, cells, look = strategy_parity(table, config), style.panel_rows(config), style.look_of(correction)
    figure, axes = style.panels(len(cells), 3, (2.1, 0.26 * len(names) + 0.5), sharex="col", sharey=True)
    titles = (
        f"{metric} accuracy,\nminus baseline (points)",
        "KL(b ‖ π), k3,\nnats per token",
        "effective\nsample size",
    )
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    for row, (title, size, dataset) in zip(axes, cells, strict=True):
        row[0].set_ylabel(title)
        style.margin_band(row[0], margin)
        chosen = table[(table["size"] == size) & (table["dataset"] == dataset) & (table["skip"] == skip)]
        for y, name in enumerate(names):
            style.forest_row(row[0], y, found[size, dataset, name], look, scale=100)
            for axis, quantity, scale in zip(row[1:], ("kl_k3", "ess"), (POSITIVE, SHARE), strict=True):
                values = chosen.loc[(chosen["strategy"] == name) & (chosen["metric"] == quantity), "value"]
                measured = values.to_numpy(dtype=np.float64)
                style.forest_row(axis, y, t_interval(measured, scale=scale) if len(measured) else None, look)
    for axis in axes.flat:
        axis.grid(False)
        axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    style.legend(figure, [style.band(style.MARGIN, f"within ±{100 * margin:g} points")])
    seeds = style.number_of((difference.n for difference in found.values() if difference), "seed")
    note = (
        f"Small points: seeds ({seeds}); bars: 95 % t interval over seeds. KL and effective sample size "
        "(1 is on-policy): means over a run's steps. Nothing here is judged."
    )
    style.finish(figure, f"correction '{correction}', {skip} % of the layers skipped", note)
    return figure
