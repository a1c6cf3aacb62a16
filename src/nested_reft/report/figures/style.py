"""One look for all figures: colours, markers, sizes, the grid of panels, and the marks of verdicts.

A correction has the same colour, marker and line in every figure, by its place in the registry. The colours are those
of Okabe and Ito (2008) and Tol (2021), told apart by colour-blind readers; markers and lines tell them apart in grey.
In the figures that judge, of parity and of gradients, a filled marker passes, a hollow one is undecided, a cross fails,
and an upright line is not assessable. In all others every marker is filled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from nested_reft.config.experiment import Config
from nested_reft.config.run import STAGES
from nested_reft.core.corrections import CORRECTIONS
from nested_reft.report.formatting import NOT_RUN
from nested_reft.report.statistics.intervals import CellVerdict, Interval


class Look(NamedTuple):
    """How one kind of run is drawn."""

    color: str
    marker: str
    linestyle: str | tuple[float, tuple[float, ...]]


INK, PAPER, GREY, GRID = "#222222", "#FFFFFF", "#7A7A7A", "#E4E4E4"
MARGIN = "#E8EEF2"  # the band within which a difference counts as none
NOISE = "#F3E3C8"  # what noise alone would show
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
BASELINE = Look(INK, "D", (0, (6, 2)))
PRETRAINED = Look(GREY, "", ":")
STAGE_LOOKS = dict(zip(STAGES, (PRETRAINED, Look(GREY, "", "-.")), strict=True))
IDEAL = Look(GREY, "", "--")
# What a colour becomes in an SVG on a dark page; the others are read on both.
DARK = {
    INK: "#E6EDF3",
    PAPER: "#0D1117",
    GREY: "#9DA7B3",
    GRID: "#30363D",
    MARGIN: "#1E2D3A",
    NOISE: "#4A3B20",
    "#0072B2": "#4AA3DF",
    "#882255": "#D4709F",
    "#332288": "#9A8CE0",
    "#117733": "#4DB36B",
}

DPI = 200
TEXT_WIDTH = 7.0  # inches: no figure is wider than the text of a paper, so none is scaled down with its letters
NOTE_LETTERS = 19  # of the note below a figure, per inch
MOST_TICKS = 8  # on a log axis
RC: dict[str, Any] = {
    **sns.axes_style("ticks"),
    **sns.plotting_context("paper"),
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same figure on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "butt",  # an interval ends where its line ends
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
    width, height = columns * size[0] + 0.5, rows * size[1] + 0.75
    figure = Figure(figsize=(min(max(width, 5.2), TEXT_WIDTH), height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def panel_rows(config: Config) -> list[tuple[str, str, str]]:
    """(title, size, data set) of each row of panels; the data set is named if there are several."""
    several = len(config.datasets) > 1
    return [(f"{s}, {d}" if several else s, s, d) for d in config.datasets for s in config.sizes]


def finish(figure: Figure, label: str, note: str) -> None:
    """Write the label of the x axes, and below it what the marks are and of how many units."""
    lines = wrap(note.replace(" %", "\N{NO-BREAK SPACE}%"), int(NOTE_LETTERS * figure.get_figwidth()))
    # The layout makes room for the label, and with empty lines below it for the note.
    figure.supxlabel(label + "\n" * len(lines), fontsize=8)
    how: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 6.5, "linespacing": 1.3}
    figure.text(0.5, 0.02 / figure.get_figheight(), "\n".join(lines), color=GREY, **how)


def legend(figure: Figure, entries: Sequence[tuple[str, Look] | Artist]) -> None:
    """One legend above all panels: of looks with their names, and of what has its label already."""
    handles = [
        Line2D([], [], color=entry[1].color, marker=entry[1].marker, ls=entry[1].linestyle, label=entry[0])
        if isinstance(entry, tuple)
        else entry
        for entry in entries
    ]
    widths = [0.42 + 0.066 * len(str(handle.get_label())) for handle in handles]  # inches
    fitting = [
        columns
        for columns in range(1, len(handles) + 1)
        if sum(max(column, default=0) for column in np.array_split(widths, columns)) < figure.get_figwidth()
    ]
    lines = math.ceil(len(handles) / max(fitting, default=1))  # a legend wider than its figure is cut off
    columns = math.ceil(len(handles) / lines) if handles else 1
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1.4, handlelength=2.2)


def marker_only(look: Look) -> Look:
    """The look of something drawn as points."""
    return look._replace(linestyle="")


def band(color: str, label: str) -> Patch:
    """The legend's entry of a shaded band."""
    return Patch(facecolor=color, label=label)


def verdict_mark(axis: Axes, x: float, y: float, look: Look, verdict: CellVerdict | None) -> None:
    """An estimate: filled if it passes, a cross if it fails, an upright line if not assessable, hollow if undecided."""
    axis.plot(x, y, ls="", color=look.color, **_mark(verdict, look))


def verdict_entries(words: Mapping[CellVerdict, str]) -> list[Line2D]:
    """The legend's entries of the marks of verdicts, in the words of a figure."""
    look = Look(GREY, "o", "")
    return [Line2D([], [], ls="", color=GREY, label=label, **_mark(verdict, look)) for verdict, label in words.items()]


def _mark(verdict: CellVerdict | None, look: Look) -> dict[str, Any]:
    if verdict == "fails":
        return {"marker": "x", "markersize": 5.5, "markeredgewidth": 1.7}
    if verdict == "not assessable":
        return {"marker": "|", "markersize": 6}
    return {"marker": look.marker, "markerfacecolor": look.color if verdict == "passes" else PAPER}


def forest_row(
    axis: Axes, y: float, found: Interval | None, look: Look, verdict: CellVerdict | None = "passes", scale: float = 1
) -> None:
    """An interval over seeds on its line with every seed below it, and the mark of a verdict; drawn times `scale`."""
    if found is None:
        not_run(axis, y)
        return
    assert found.units is not None
    axis.scatter(scale * found.units, np.full(found.n, y + 0.28), s=6, color=look.color, alpha=0.5, lw=0)
    axis.hlines(y, scale * found.low, scale * found.high, color=look.color)
    verdict_mark(axis, scale * found.estimate, y, look, verdict)


def margin_band(axis: Axes, margin: float) -> None:
    """The margin of equivalence in percentage points around 0, and 0."""
    axis.axvspan(-100 * margin, 100 * margin, color=MARGIN, lw=0)
    axis.axvline(0, color=INK, lw=0.8)


def not_run(axis: Axes, y: float | None = None, text: str = NOT_RUN) -> None:
    """Say that there is nothing to draw, and why: in an empty panel, or on the line of height `y`."""
    transform = axis.transAxes if y is None else axis.get_yaxis_transform()
    height, size = (0.5, 8) if y is None else (y, 7)
    axis.text(0.5, height, text, transform=transform, ha="center", va="center", fontsize=size, color=GREY)


def nothing_run() -> Figure:
    """A small figure that only says that there is nothing to draw."""
    figure, axes = panels(1, 1, (3.7, 1.0))
    axes[0, 0].set_axis_off()
    not_run(axes[0, 0])
    return figure


def dodge(count: int, width: float) -> np.ndarray:
    """Offsets (count,) that set `count` series side by side within `width`, centred on 0."""
    return (np.arange(count) - (count - 1) / 2) * (width / max(count, 1))


def skip_groups(axis: Axes, skips: Sequence[int], below: Mapping[int, str] | None = None) -> None:
    """One group of series per skip along x, with a line between groups; `below` each skip another text."""
    axis.set_xticks(range(len(skips)), [f"{skip}\n{(below or {}).get(skip, '')}".strip() for skip in skips])
    axis.set_xlim(-0.5, max(len(skips), 1) - 0.5)
    for edge in range(1, len(skips)):
        axis.axvline(edge - 0.5, color=GRID, lw=0.6, zorder=0)


def of_model(table: pd.DataFrame, correction: str, skip: int) -> pd.DataFrame:
    """The rows of one model, one per seed, of a table with the columns correction, skip, seed, value and n."""
    return table[(table["correction"] == correction) & (table["skip"] == skip)]


def number_of(values: Iterable[float], unit: str, units: str = "") -> str:
    """ "4 seeds", or "3 to 4 seeds" if they are not the same everywhere; `units`: the plural if it has no plain s."""
    found = sorted(values) or [0]
    several = f"{found[0]:g} to " if found[0] != found[-1] else ""
    return f"{several}{found[-1]:g} {unit if found[-1] == 1 else units or f'{unit}s'}"


def log_scale(axis: Axes) -> None:
    """A log scale with plain numbers, not exponents: 0.01, 0.02, 0.05, 0.1, or decades only if there are many."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1e3 * low else (1,), numticks=MOST_TICKS))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
