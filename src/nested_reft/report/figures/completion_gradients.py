"""The figure of bias by distinct completions: scale against direction."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure

from nested_reft.config.experiment import Config, nested_skips
from nested_reft.report.claims.judge import completion_gradient_cells
from nested_reft.report.figures import style
from nested_reft.report.formatting import NOT_RESOLVED, NOT_RUN
from nested_reft.report.statistics.comparisons import completion_gradients as cells_of
from nested_reft.report.statistics.intervals import CellVerdict


def completion_gradients(table: pd.DataFrame, config: Config) -> Figure:
    """1 - cosine against scale, one point per correction: a row per size, a column per skip."""
    skips, names, margin = nested_skips(config), list(config.gradients.corrections), config.gradients.bias_margin
    if table.empty or not skips:
        return style.nothing_run()
    biases, _ = completion_gradient_cells(table, config)
    scales, cosines = (cells_of(table, config, name) for name in ("scale", "cosine"))
    figure, axes = style.panels(len(config.sizes), len(skips), (2.3, 2.1), sharex=True, sharey=True)
    for row, size in zip(axes, config.sizes, strict=True):
        row[0].set_ylabel(f"{size}\n1 − cosine" if len(config.sizes) > 1 else "1 − cosine")
        for axis, skip in zip(row, skips, strict=True):
            axis.set_title(f"skip {skip} %")
            axis.axvline(1, color=style.INK, lw=0.8)
            axis.axhline(0, color=style.INK, lw=0.8)
            measured = drawn = False
            for name in names:
                key, look = (size, name, skip), style.look_of(name)
                bias, along, turned = biases[key], scales[key], cosines[key]
                measured |= bias.found is not None
                if not (along and turned) or math.isnan(along.estimate) or math.isnan(turned.estimate):
                    continue
                x, y = along.estimate, 1 - turned.estimate
                if along.exists:
                    axis.hlines(y, along.low, along.high, color=look.color, lw=1.1)
                if turned.exists:
                    axis.vlines(x, 1 - turned.high, 1 - turned.low, color=look.color, lw=1.1)
                style.verdict_mark(axis, x, y, look, bias.verdict)
                drawn = True
            if not drawn:
                style.not_run(axis, text=NOT_RESOLVED if measured else NOT_RUN)
    entries = [(name, style.marker_only(style.look_of(name))) for name in names]
    within = f"bias within {100 * margin:g} %"
    words: dict[CellVerdict, str] = {"passes": within, "undecided": "undecided", "fails": "above"}
    style.legend(figure, [*entries, *style.verdict_entries(words)])
    problems = style.number_of(table["n"], "problem")
    note = (
        f"{problems}, each with its own draw of layers; bars: 95 % jackknife interval over problems. At (1, 0) the "
        "corrected gradient is the on-policy one."
    )
    style.finish(figure, "scale: length along the on-policy gradient, over its length", note)
    return figure
