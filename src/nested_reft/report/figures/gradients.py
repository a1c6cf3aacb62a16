"""The figure of the gradient estimates: bias and variance of every correction against skip."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, SymmetricalLogLocator

from nested_reft.config.experiment import Config, nested_skips
from nested_reft.report.claims.judge import Cell, gradient_cells
from nested_reft.report.figures import style
from nested_reft.report.formatting import NOT_RESOLVED, NOT_RUN
from nested_reft.report.statistics.gradients import Bias
from nested_reft.report.statistics.intervals import CellVerdict


def gradients(table: pd.DataFrame, config: Config) -> Figure:
    """Relative bias (above) and variance ratio (below) with intervals against skip: one column per size."""
    margin, limit = config.gradients.bias_margin, config.gradients.variance_limit
    biases, variances = gradient_cells(table, config)
    names, skips = list(config.gradients.corrections), nested_skips(config)
    offsets = style.dodge(len(names), 0.7)
    figure, axes = style.panels(2, len(config.sizes), (3.1, 1.9), sharex=True, sharey="row")
    for (above, below), size in zip(axes.T, config.sizes, strict=True):
        above.set_title(size)
        above.axhspan(0, margin, color=style.MARGIN, lw=0)
        below.axhspan(0, limit, color=style.MARGIN, lw=0)
        below.axhline(1, color=style.INK, lw=0.8)
        for axis in (above, below):
            style.skip_groups(axis, skips)
        if (table["size"] != size).all():
            style.not_run(above)
            style.not_run(below)
            continue
        for place, skip in enumerate(skips):
            found = [biases[size, name, skip].found for name in names]
            noises = {bias.noise for bias in found if isinstance(bias, Bias)}
            for noise in noises - {math.nan}:
                above.fill_between([place - 0.45, place + 0.45], 0, noise, color=style.NOISE, lw=0, zorder=0)
            for name, offset in zip(names, offsets, strict=True):
                x, look = place + offset, style.look_of(name)
                _draw(above, x, biases[size, name, skip], look)
                _draw(below, x, variances[size, name, skip], look)
    bias_axis, variance_axis = axes[:, 0]
    bias_axis.set_ylabel("relative bias")
    # Zero must be shown, and a log scale has none: up to the margin it is linear.
    bias_axis.set_yscale("symlog", linthresh=margin, linscale=0.6)
    bias_axis.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=margin, subs=(1, 3)))
    bias_axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    bias_axis.set_ylim(bottom=-0.1 * margin)
    variance_axis.set_ylabel("variance, over on-policy")
    ratios = [cell.found for cell in variances.values() if cell.found and cell.found.exists]
    ends = [end for ratio in ratios for end in (ratio.low, ratio.high)]
    variance_axis.set_ylim(0.8 * min([0.7, *ends]), 1.2 * max([2 * limit, *ends]))
    style.log_scale(variance_axis)
    entries = [(name, style.marker_only(style.look_of(name))) for name in names]
    bands = [
        style.band(style.MARGIN, f"claimed (≤ {100 * margin:g} %, ≤ {limit:g}×)"),
        style.band(style.NOISE, "on-policy noise"),
    ]
    words: dict[CellVerdict, str] = {"passes": "within the claim", "undecided": "undecided", "fails": "beyond it"}
    style.legend(figure, [*entries, *style.verdict_entries(words), *bands])
    batches = style.number_of((cell.found.n for cell in biases.values() if cell.found), "batch", "batches")
    note = (
        f"{batches} of {config.gradients.problems_per_batch} problems × {config.gradients.completions_per_problem} "
        "completions; bars: 95 % jackknife interval over batches. Relative bias: norm of the difference between "
        "expected gradients, over the on-policy one's, with the noise taken out. On-policy noise: how far two "
        "on-policy estimates are apart. Dotted: not resolved, as the noise is above the margin and the interval does "
        "not decide. No marker: no estimate."
    )
    style.finish(figure, "layers skipped in the rollout (%)", note)
    return figure


def _draw(axis: Axes, x: float, cell: Cell, look: style.Look) -> None:
    """A bar and the mark of its verdict; what is not resolved, or has a negative square, has no estimate to mark."""
    found, resolved = cell.found, not cell.reason.startswith(NOT_RESOLVED)
    if found is None or not found.exists:
        text = NOT_RUN if found is None else NOT_RESOLVED
        how: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "center", "fontsize": 6.5, "color": look.color}
        axis.text(x, 0.5, text, transform=axis.get_xaxis_transform(), **how)
        return
    axis.vlines(x, found.low, found.high, color=look.color, lw=1.1, ls="-" if resolved else ":")
    if resolved and not math.isnan(found.estimate):
        style.verdict_mark(axis, x, found.estimate, look, cell.verdict)
