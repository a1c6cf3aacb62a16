"""One look for all figures: colours, markers, sizes and the panel grid.

A correction has the same colour, marker and line in every figure, by its place in the registry. The colours are those
of Okabe and Ito (2008) and Tol (2021), told apart by colour-blind readers; markers and lines tell them apart in grey.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from nested_reft.config.experiment import Config
from nested_reft.config.run import STAGES
from nested_reft.core.corrections import CORRECTIONS
from nested_reft.report.statistics.comparisons import accuracy_of


class Look(NamedTuple):
    """How one kind of run is drawn."""

    color: str
    marker: str
    linestyle: str | tuple[float, tuple[float, ...]]


PALETTE = (
    Look("#0072B2", "o", "-"),
    Look("#D55E00", "s", "--"),
    Look("#009E73", "^", "-."),
    Look("#56B4E9", "v", (0, (3, 1, 1, 1, 1, 1))),
    Look("#CC79A7", "D", "--"),
    Look("#882255", "d", "-."),
    Look("#E69F00", "P", "--"),
    Look("#999933", "X", "-."),
    Look("#44AA99", "<", "--"),
    Look("#117733", ">", "-."),
    Look("#332288", "h", (0, (5, 1))),
    Look("#AA4499", "p", (0, (1, 1))),
)
BASELINE = Look("#222222", "D", (0, (6, 2)))
PRETRAINED = Look("#8A8A8A", "", ":")
STAGE_LOOKS = dict(zip(STAGES, (PRETRAINED, Look("#8A8A8A", "", "-.")), strict=True))
IDEAL = Look("#8A8A8A", "", "--")
NOISE = Look("#8A8A8A", "*", "")  # a control, with nothing to find but noise
MARGIN = "#E8EEF2"  # the band within which a difference counts as none

DPI = 200
TEXT_WIDTH = 7.0  # inches: no figure is wider than the text of a paper, so none is scaled down with its letters
MOST_TICKS = 8  # on a log axis
MARKERS_PER_LINE = 5
RC: dict[str, Any] = {
    **sns.axes_style("ticks"),
    **sns.plotting_context("paper"),
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same figure on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,  # letters stay letters, which many conferences ask for
    "svg.hashsalt": "nested-reft",  # ids in the SVG do not change from run to run
}


def look_of(correction: str) -> Look:
    """The look of a correction, by its place in the registry. Looks repeat beyond the length of the palette."""
    return PALETTE[list(CORRECTIONS).index(correction) % len(PALETTE)]


def panels(rows: int, columns: int, size: tuple[float, float], **share: Any) -> tuple[Figure, np.ndarray]:
    """A figure of rows x columns panels of `size` (width, height) inches each, narrower if they exceed the text width.

    Returns the figure and its axes (rows, columns).
    """
    width, height = columns * size[0] + 0.5, rows * size[1] + 0.6
    figure = Figure(figsize=(min(max(width, 4.2), TEXT_WIDTH), height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def legend(figure: Figure, entries: Sequence[tuple[str, Look]]) -> None:
    """One legend above all panels."""
    handles = [
        Line2D([], [], color=look.color, marker=look.marker, linestyle=look.linestyle, label=label)
        for label, look in entries
    ]
    columns = min(
        len(handles), int(figure.get_figwidth() / 1.25)
    )  # as many as fit; a legend wider than its figure is cut off
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1.5, handlelength=2.6)


def marker_only(look: Look) -> Look:
    """The look of something drawn as points."""
    return look._replace(linestyle="")


def sparse_markers(count: int, place: int, series: int) -> dict[str, Any]:
    """Markers of line `place` of `series` with `count` points: a few, so that lines are told apart in grey.

    They are at other points than those of the other lines, which may have the same values.
    """
    step = max(1, count // MARKERS_PER_LINE)
    return {"markevery": (place * step // max(series, 1), step), "markersize": 3.5}


def not_run(axes: Axes) -> None:
    """Say in an empty panel that there is nothing to draw."""
    axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", va="center", color=PRETRAINED.color)


def nothing_run() -> Figure:
    """A small figure that only says that there is nothing to draw."""
    figure, axes = panels(1, 1, (3.7, 1.0))
    axes[0, 0].set_axis_off()
    not_run(axes[0, 0])
    return figure


def dodge(count: int, width: float) -> np.ndarray:
    """Offsets (count,) that set `count` series side by side within `width`, centred on 0."""
    return (np.arange(count) - (count - 1) / 2) * (width / max(count, 1))


def of_model(table: pd.DataFrame, correction: str, skip: int) -> pd.DataFrame:
    """The rows of one model, one per seed, of a table with the columns correction, skip, seed, value and n."""
    return table[(table["correction"] == correction) & (table["skip"] == skip)]


def seeds_and_mean(axis: Axes, x: float, model: pd.DataFrame, look: Look, beside: float = 0.0) -> None:
    """In percent: every seed faint, `beside` the mean's marker, and a bar for the mean's interval if there is one."""
    interval = accuracy_of(model)
    if interval is None:
        return
    axis.scatter(np.full(len(model), x + beside), 100 * model["value"], s=5, color=look.color, alpha=0.6, lw=0)
    if interval.exists:
        axis.vlines(x, 100 * interval.low, 100 * interval.high, color=look.color, lw=0.8, alpha=0.7)
    axis.plot(x, 100 * interval.estimate, marker=look.marker, color=look.color, markersize=3.5, ls="")


def rows(config: Config) -> list[tuple[str, str, str]]:
    """(title, size, data set) of each row of panels; the data set is named if there are several."""
    several = len(config.datasets) > 1
    return [(f"{s}, {d}" if several else s, s, d) for d in config.datasets for s in config.sizes]


def ratio_scale(axis: Axes) -> None:
    """Ratios are symmetric about 1 on a log scale; ticks at powers of two (or ten) read better than exponents."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    base = 2 if high / low < 100 else 10
    first, last = np.floor(np.log(low) / np.log(base)), np.ceil(np.log(high) / np.log(base))
    powers = np.arange(first, last + 1)
    # Wide intervals can span many decades; 1 is always named.
    powers = powers[powers % math.ceil(len(powers) / MOST_TICKS) == 0]
    axis.yaxis.set_major_locator(FixedLocator(list(float(base) ** powers)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_ylim(low, high)
