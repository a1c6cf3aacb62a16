"""The figure of the gradient estimates: bias and variance of every correction against skip."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from nested_reft.config.experiment import Config, nested_skips
from nested_reft.report.claims.rules import Limits
from nested_reft.report.figures import style
from nested_reft.report.formatting import NOT_RESOLVED, NOT_RUN
from nested_reft.report.statistics.comparisons import gradient_biases, gradient_variances
from nested_reft.report.statistics.gradients import bias_verdict
from nested_reft.report.statistics.intervals import Interval


def gradients(table: pd.DataFrame, config: Config) -> Figure:
    """Relative bias (above) and variance ratio (below) with intervals against skip: one column per size."""
    margin, limit = config.gradients.bias_margin, config.gradients.variance_limit
    biases, variances = gradient_biases(table, config), gradient_variances(table, config)
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
            noises = {found.noise for name in names if (found := biases[size, name, skip])}
            for noise in noises - {math.nan}:
                above.fill_between([place - 0.45, place + 0.45], 0, noise, color=style.NOISE, lw=0, zorder=0)
            for name, offset in zip(names, offsets, strict=True):
                x, look = place + offset, style.look_of(name)
                bias = biases[size, name, skip]
                resolved = bias is not None and bias_verdict(bias, margin) != NOT_RESOLVED
                _draw(above, x, bias, look, Limits(high=margin), resolved)
                _draw(below, x, variances[size, name, skip], look, Limits(high=limit))
    tops = [value for found in biases.values() if found for value in (found.high, found.noise)]
    _percent_scale(axes[0, 0], margin, tops)
    axes[0, 0].set_ylabel("relative bias")
    axes[1, 0].set_ylabel("variance, over on-policy")
    bounds = [value for found in variances.values() if found for value in (found.low, found.high)]
    finite = [value for value in bounds if math.isfinite(value) and value > 0]
    axes[1, 0].set_ylim(0.8 * min([0.7, *finite]), 1.2 * max([2 * limit, *finite]))
    style.ratio_scale(axes[1, 0])
    entries = [(name, style.marker_only(style.look_of(name))) for name in names]
    bands = [
        style.band(style.MARGIN, f"claimed (≤ {100 * margin:g} %, ≤ {limit:g}×)"),
        style.band(style.NOISE, "on-policy noise"),
    ]
    style.legend(figure, [*entries, *style.verdict_entries("within the claim", "refuted"), *bands])
    batches = style.number_of((found.n for found in biases.values() if found), "batch", "batches")
    note = (
        f"{batches} of {config.gradients.problems_per_batch} problems × {config.gradients.completions_per_problem} "
        "completions; bars: 95 % jackknife interval over batches. Relative bias: norm of the difference between "
        "expected gradients, over the on-policy one's, with the noise taken out. On-policy noise: how far two "
        "on-policy estimates are apart. Dotted, no marker: not resolved, as the noise is above the margin and the "
        "interval does not decide."
    )
    style.finish(figure, "layers skipped in the rollout (%)", note)
    return figure


def _draw(
    axis: Axes, x: float, found: Interval | None, look: style.Look, limits: Limits, resolved: bool = True
) -> None:
    """A bar and the mark of its verdict; what is not resolved has no estimate, and so no mark."""
    if found is None or not found.exists:
        text = NOT_RUN if found is None else NOT_RESOLVED
        how: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "center", "fontsize": 6.5, "color": look.color}
        axis.text(x, 0.5, text, transform=axis.get_xaxis_transform(), **how)
        return
    axis.vlines(x, found.low, found.high, color=look.color, lw=1.1, ls="-" if resolved else ":")
    if resolved:  # a negative square of the bias has no root: the estimate is 0
        estimate = 0.0 if math.isnan(found.estimate) else found.estimate
        style.verdict_mark(axis, x, estimate, look, limits.judge(found))


def _percent_scale(axis: Axes, margin: float, values: list[float]) -> None:
    """Percent from 0; beyond the margin on a log scale, if the values reach a decade above it."""
    top = max([value for value in values if math.isfinite(value)], default=0.0)
    top = max(1.15 * top, 1.5 * margin)
    if top > 10 * margin:
        # Zero must be shown, and a log scale has none.
        axis.set_yscale("symlog", linthresh=margin, linscale=0.6)
        decades = range(math.ceil(math.log10(top / margin)) + 1)
        steps = (1, 3) if 2 * len(decades) < style.MOST_TICKS else (1,)
        axis.yaxis.set_major_locator(FixedLocator([0, *(m * margin * 10**d for d in decades for m in steps)]))
        axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axis.set_ylim(-0.12 * margin if top > 10 * margin else -0.03 * top, top)
