"""Draws a figure of the registry from the tidy tables, and writes it in all formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from nested_reft.config.experiment import Config
from nested_reft.report.figures.style import DARK, DPI, RC
from nested_reft.report.registry import FIGURE_KINDS, FIGURES
from nested_reft.report.tidy import read_table

# How each format is written: without a date, so that the same figure is the same file; the SVG without a background.
OPTIONS: dict[str, dict[str, Any]] = {
    "png": {},
    "svg": {"transparent": True, "metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None}},
}


def draw(name: str, root: Path, config: Config) -> None:
    """Write `figures/{name}` in all `FIGURE_KINDS` under `root` from its tables; KeyError for an unknown name."""
    entry = FIGURES[name]
    with mpl.rc_context(RC):
        figure = entry.load()(*(read_table(root, table) for table in entry.tables), config)
        save_figure(figure, root / "figures" / name)


def save_figure(figure: Figure, stem: Path) -> None:
    """Write `stem` as PNG, SVG and PDF."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for kind in FIGURE_KINDS:
        figure.savefig(stem.with_suffix(f".{kind}"), dpi=DPI, **OPTIONS[kind])
    path = stem.with_suffix(".svg")
    path.write_text(on_dark_pages(path.read_text(encoding="utf-8")), encoding="utf-8")


def on_dark_pages(svg: str) -> str:
    """The SVG with a style sheet that changes the colours in `DARK` if the reader prefers dark pages."""
    rules = "".join(
        f'[style*="{what}: {light.lower()}"]{{{what}:{dark} !important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    return svg.replace("<defs>", f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>\n <defs>", 1)
