"""The figure of the gradient estimates: bias and variance of every correction against skip."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from nested_reft.config.experiment import Config, nested_skips
from nested_reft.report.figures.style import (
    BASELINE,
    IDEAL,
    MARGIN,
    MOST_TICKS,
    NOISE,
    Look,
    dodge,
    legend,
    look_of,
    marker_only,
    not_run,
    panels,
    ratio_scale,
)
from nested_reft.report.formatting import NOT_RESOLVED, NOT_RUN
from nested_reft.report.statistics.comparisons import gradient_biases, gradient_controls, gradient_variances
from nested_reft.report.statistics.gradients import bias_verdict, is_controlled
from nested_reft.report.statistics.intervals import Interval

TWO_SETS = NOISE._replace(marker="", linestyle=(0, (1, 1.5)))  # how far two on-policy estimates are apart
PALE = 0.5  # opacity of what is not resolved


def gradients(table: pd.DataFrame, config: Config) -> Figure:
    """Relative bias (above) and variance ratio (below) with intervals against skip: one column per size."""
    margin, limit = config.gradients.bias_margin, config.gradients.variance_limit
    biases, variances = gradient_biases(table, config), gradient_variances(table, config)
    controls = gradient_controls(table, config)
    names, skips = list(config.gradients.corrections), nested_skips(config)
    # In each skip's group the control comes first, then the corrections in the config's order.
    offsets = dodge(len(names) + 1, 0.84)
    figure, axes = panels(2, len(config.sizes), (3.0, 2.0), sharex=True, sharey="row")
    for (above, below), size in zip(axes.T, config.sizes, strict=True):
        above.set_title(size)
        above.axhspan(0, margin, color=MARGIN, lw=0)
        below.axhline(1, color=BASELINE.color, lw=0.8)
        below.axhline(limit, color=IDEAL.color, linestyle=IDEAL.linestyle, lw=0.8)
        if (table["size"] != size).all():
            not_run(above)
            not_run(below)
            continue
        for place, skip in enumerate(skips):
            control = controls[size, skip]
            if control is None:
                above.text(place, 0.5, NOT_RUN, **_upright(above))
                below.text(place, 0.5, NOT_RUN, **_upright(below))
                continue
            above.hlines(control.noise, place - 0.45, place + 0.45, color=NOISE.color, ls=TWO_SETS.linestyle, lw=0.9)
            _draw(above, place + offsets[0], control, NOISE, True, not math.isnan(control.estimate))
            for name, offset in zip(names, offsets[1:], strict=True):
                x, bias, variance = place + offset, biases[size, name, skip], variances[size, name, skip]
                judged = bias_verdict(bias, margin) if bias else NOT_RUN
                _draw(above, x, bias, look_of(name), judged == "unbiased", judged != NOT_RESOLVED)
                _draw(below, x, variance, look_of(name), variance is not None and is_controlled(variance, limit))
    first = axes[0, 0]
    first.set_xticks(range(len(skips)), [str(skip) for skip in skips])
    first.set_xlim(-0.6, max(len(skips), 1) - 0.4)
    bounds = [found for found in (*biases.values(), *controls.values()) if found]
    _share_scale(first, margin, [value for found in bounds for value in (found.estimate, found.high, found.noise)])
    first.set_ylabel("relative bias")
    axes[1, 0].set_ylabel("variance, over on-policy")
    ratio_scale(axes[1, 0])
    entries = [("on-policy again", NOISE), ("noise alone", TWO_SETS)]
    entries += [(name, marker_only(look_of(name))) for name in names]
    legend(figure, entries)
    figure.supxlabel("layers skipped in the rollout (%)", fontsize=8)
    return figure


def _draw(axis: Axes, x: float, found: Interval | None, look: Look, filled: bool, resolved: bool = True) -> None:
    """A bar and a marker; a value without an estimate, or that is not resolved, has the marker at its upper bound."""
    estimate = found.estimate if found and resolved else math.nan
    if found is None or (math.isnan(estimate) and not found.exists):
        axis.text(x, 0.5, NOT_RUN if found is None else NOT_RESOLVED, **_upright(axis))
        return
    strength = 1.0 if resolved else PALE
    if found.exists:
        axis.vlines(x, found.low, found.high, color=look.color, lw=1.1, ls="-" if resolved else ":", alpha=strength)
    y, face = found.high if math.isnan(estimate) else estimate, look.color if filled else "white"
    axis.plot(x, y, marker=look.marker, color=look.color, mfc=face, ls="", alpha=strength)


def _upright(axis: Axes) -> dict[str, Any]:
    """How a text is drawn in place of a value: vertical, in the middle of the panel's height."""
    where = {"transform": axis.get_xaxis_transform(), "rotation": 90, "ha": "center", "va": "center"}
    return {**where, "fontsize": 7, "color": NOISE.color}


def _share_scale(axis: Axes, margin: float, values: list[float]) -> None:
    """Percent from 0; beyond the margin on a log scale, if the values reach a decade above it."""
    top = max([value for value in values if math.isfinite(value)], default=0.0)
    top = max(1.15 * top, 1.5 * margin)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    if top > 10 * margin:
        # Zero must be shown, and a log scale has none.
        axis.set_yscale("symlog", linthresh=margin, linscale=0.6)
        decades = range(math.ceil(math.log10(top / margin)) + 1)
        steps = (1, 3) if 2 * len(decades) < MOST_TICKS else (1,)
        axis.yaxis.set_major_locator(FixedLocator([0, *(m * margin * 10**d for d in decades for m in steps)]))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axis.set_ylim(-0.12 * margin if top > 10 * margin else -0.03 * top, top)
