"""The figures of the report by name: what draws each, from which tables, and what its caption says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from nested_reft.config import Config
from nested_reft.report.catalogue import FIGURES
from nested_reft.report.collect import read_table
from nested_reft.report.plots_accuracy import accuracy, parity_plot
from nested_reft.report.plots_gradients import gradients
from nested_reft.report.plots_speed import throughput, time
from nested_reft.report.plots_strategies import strategies
from nested_reft.report.plots_training import off_policyness, reward
from nested_reft.report.style import DPI, RC

# Each takes the tables that its catalogue entry names, in that order, and the config.
DRAW: dict[str, Callable[..., Figure]] = {
    "throughput": throughput,
    "time": time,
    "reward": reward,
    "off_policyness": off_policyness,
    "accuracy": accuracy,
    "parity": parity_plot,
    "gradients": gradients,
    "strategies": strategies,
}


def draw(name: str, root: Path, config: Config) -> None:
    """Write `figures/{name}.png` and `.svg` under `root` from its tables; KeyError for an unknown name."""
    entry = FIGURES[name]
    with mpl.rc_context(RC):
        figure = DRAW[name](*(read_table(root, table) for table in entry.tables), config)
        save_figure(figure, root / "figures" / name)


def save_figure(figure: Figure, stem: Path) -> None:
    """Write `stem`.png and `stem`.svg; no date inside, so that the same figure is the same file."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(stem.with_suffix(".png"), dpi=DPI)
    figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
