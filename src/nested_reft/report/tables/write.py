"""Writes the tables for people, as CSV, Markdown, LaTeX and HTML.

A cell that was not run says so. The notes under each table say what varies and what the interval is.
"""

from __future__ import annotations

from pathlib import Path

from nested_reft.config.experiment import Config
from nested_reft.report.pages.page import write_page
from nested_reft.report.registry import PRESENTATION_TABLES
from nested_reft.report.tidy import read_table


def write_tables(root: Path, config: Config) -> None:
    """Write the presentation tables (`registry.PRESENTATION_TABLES`) from those of `collect`."""
    for name, entry in PRESENTATION_TABLES.items():
        table, page = entry.load()(*(read_table(root, source) for source in entry.tables), config)
        write_page(root, name, table, page)
