"""Draws a figure of the registry from the tidy tables, and writes it in all formats."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from nested_reft.config.experiment import Config
from nested_reft.report.figures.style import DPI, RC
from nested_reft.report.registry import FIGURE_KINDS, FIGURES
from nested_reft.report.tidy import read_table

NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def draw(name: str, root: Path, config: Config) -> None:
    """Write `figures/{name}` in all `FIGURE_KINDS` under `root` from its tables; KeyError for an unknown name."""
    entry = FIGURES[name]
    with mpl.rc_context(RC):
        figure = entry.load()(*(read_table(root, table) for table in entry.tables), config)
        save_figure(figure, root / "figures" / name)


def save_figure(figure: Figure, stem: Path) -> None:
    """Write `stem` as PNG, SVG and PDF, without a date inside, so that the same figure is the same file."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for kind in FIGURE_KINDS:
        figure.savefig(stem.with_suffix(f".{kind}"), dpi=DPI, metadata=NO_DATE.get(kind))
