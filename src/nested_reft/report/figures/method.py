"""The schematic of the method: who writes, who learns."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from nested_reft.config.experiment import Config
from nested_reft.report.figures import style

LAYERS, LEFT_OUT = 8, (2, 5)  # those of the picture; the ends are never left out
WRITES, LEARNS = style.PALETTE[1].color, style.PALETTE[0].color
WIDTH, HEIGHT = 7.0, 2.75  # inches, and the units of all places


def method(config: Config) -> Figure:
    """The full target, the subset of its layers that writes, and what the target learns from; of any experiment."""
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axis.set_axis_off()
    _model(axis, 0.7, WRITES, "behaviour policy b", "writes the rollouts", LEFT_OUT)
    _model(axis, 6.3, LEARNS, "target policy π", "learns, with all L layers", ())
    above, middle, below = 1.95, 1.42, 0.89
    _box(axis, 2.15, middle, "rollouts", "G completions per\nproblem, with log b\nof every token")
    _box(axis, 3.6, above, "reward", "right or wrong,\nsays a verifier")
    _box(axis, 3.6, below, "log π", "of the same tokens,\nover all L layers")
    _box(axis, 4.95, middle, "corrected loss", "weight of ρ = π / b,\ntimes advantage")
    _arrow(axis, (1.27, middle), (1.62, middle), WRITES)
    _arrow(axis, (2.68, middle + 0.18), (3.07, above), style.INK)
    _arrow(axis, (2.68, middle - 0.18), (3.07, below), style.INK)
    _arrow(axis, (4.13, above), (4.42, middle + 0.18), style.INK)
    _arrow(axis, (4.13, below), (4.42, middle - 0.18), style.INK)
    _arrow(axis, (5.48, middle), (5.73, middle), LEARNS)
    axis.plot([6.3, 6.3, 0.7], [0.5, 0.27, 0.27], color=style.GREY, lw=1.2)
    _arrow(axis, (0.7, 0.27), (0.7, 0.52), style.GREY)
    words = "b is a view of π: the same weights, with k of the L layers left out, drawn again for every batch"
    axis.text(WIDTH / 2, 0.14, words, ha="center", va="center", fontsize=7)
    return figure


def _model(axis: Axes, x: float, color: str, name: str, role: str, left_out: tuple[int, ...]) -> None:
    """A column of layers centred on `x`, from bottom to top; those left out are dashed."""
    for layer in range(LAYERS):
        y, gone = 0.65 + 0.2 * layer, layer in left_out
        look: dict[str, Any] = {"facecolor": "none", "linestyle": "--"} if gone else {"facecolor": color}
        _rounded(axis, x, y, 1.1, 0.15, edgecolor=color, linewidth=0.8, **look)
        if gone:
            axis.text(x, y, "left out", ha="center", va="center", fontsize=6.5, color=color)
    axis.text(x, 2.58, name, ha="center", va="center", fontsize=8.5, fontweight="bold", color=color)
    axis.text(x, 2.36, role, ha="center", va="center", fontsize=7.5)


def _box(axis: Axes, x: float, y: float, title: str, text: str) -> None:
    """A step of the method, centred on a place."""
    height = 0.44 + 0.12 * text.count("\n")
    _rounded(axis, x, y, 1.06, height, facecolor=style.MARGIN, edgecolor="none")
    how: dict[str, Any] = {"ha": "center", "va": "top"}
    axis.text(x, y + height / 2 - 0.07, title, fontsize=8, fontweight="bold", **how)
    axis.text(x, y + height / 2 - 0.23, text, fontsize=6.5, linespacing=1.25, **how)


def _rounded(axis: Axes, x: float, y: float, width: float, height: float, **look: Any) -> None:
    """A rectangle with rounded corners, centred on a place."""
    corner = (x - width / 2, y - height / 2)
    axis.add_patch(FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.05", **look))


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    arrow = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, lw=1.2, shrinkA=0, shrinkB=0, color=color)
    axis.add_patch(arrow)
