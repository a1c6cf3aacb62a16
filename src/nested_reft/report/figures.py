"""The figures of the report by name: what draws each, from which tables, and what its caption says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from nested_reft.config import Config
from nested_reft.report.catalogue import FIGURE_KINDS, FIGURES
from nested_reft.report.collect import read_table
from nested_reft.report.plots_accuracy import accuracy, parity_plot
from nested_reft.report.plots_gradients import gradients
from nested_reft.report.plots_layers import layers
from nested_reft.report.plots_learning import reward, reward_time
from nested_reft.report.plots_off_policyness import off_policyness
from nested_reft.report.plots_speed import throughput, time
from nested_reft.report.plots_strategies import strategies
from nested_reft.report.plots_tradeoff import tradeoff
from nested_reft.report.style import DPI, RC

NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}

# Each takes the tables that its catalogue entry names, in that order, and the config.
DRAW: dict[str, Callable[..., Figure]] = {
    "throughput": throughput,
    "time": time,
    "tradeoff": tradeoff,
    "accuracy": accuracy,
    "parity": parity_plot,
    "reward": reward,
    "reward_time": reward_time,
    "off_policyness": off_policyness,
    "gradients": gradients,
    "strategies": strategies,
    "layers": layers,
}


def draw(name: str, root: Path, config: Config) -> None:
    """Write `figures/{name}` as each of `FIGURE_KINDS` under `root` from its tables; KeyError for an unknown name."""
    entry = FIGURES[name]
    with mpl.rc_context(RC):
        figure = DRAW[name](*(read_table(root, table) for table in entry.tables), config)
        save_figure(figure, root / "figures" / name)


def save_figure(figure: Figure, stem: Path) -> None:
    """Write `stem` as PNG, SVG and PDF; no date inside, so that the same figure is the same file."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for kind in FIGURE_KINDS:
        figure.savefig(stem.with_suffix(f".{kind}"), dpi=DPI, metadata=NO_DATE.get(kind))
