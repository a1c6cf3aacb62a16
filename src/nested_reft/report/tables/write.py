"""Writes the tables for people, as CSV, Markdown, LaTeX and HTML.

A cell that was not run says so. The notes under each table say what varies and what the interval is.
"""

from __future__ import annotations

from pathlib import Path

from nested_reft.config.experiment import Config
from nested_reft.report.pages.page import write_page
from nested_reft.report.registry import METRICS
from nested_reft.report.tables.accuracy import accuracy_page, accuracy_table
from nested_reft.report.tables.gains import gain_page, gain_table
from nested_reft.report.tables.gradients import (
    exact_bias_page,
    exact_bias_table,
    gradient_bias_page,
    gradient_bias_table,
)
from nested_reft.report.tables.layer_choice import layer_choice_page, layer_choice_table
from nested_reft.report.tables.nestability import nestability_page, nestability_table
from nested_reft.report.tables.parity import equivalence_page, equivalence_table
from nested_reft.report.tables.speed import speedup_page, speedup_table
from nested_reft.report.tidy import read_table


def write_tables(root: Path, config: Config) -> None:
    """Write the presentation tables (`registry.PRESENTATION_TABLES`) from those of `collect`."""
    runs, throughput, step_speed = (read_table(root, name) for name in ("runs", "throughput", "step_speed"))
    gradients, strategies, exact = (read_table(root, name) for name in ("gradients", "strategies", "exact"))
    for metric in METRICS:
        table = accuracy_table(runs, config, metric)
        write_page(root, f"accuracy_{metric}", table, accuracy_page(table, config, metric))
    table = gain_table(read_table(root, "gains"), config)
    write_page(root, "gain_by_benchmark", table, gain_page(table, config))
    table = speedup_table(throughput, step_speed, config)
    write_page(root, "speedup", table, speedup_page(table))
    table = equivalence_table(runs, config)
    write_page(root, "equivalence", table, equivalence_page(table, config))
    table = gradient_bias_table(gradients, config)
    write_page(root, "gradient_bias", table, gradient_bias_page(table, config))
    table = layer_choice_table(strategies, config)
    write_page(root, "layer_choice", table, layer_choice_page(table, config))
    table = nestability_table(read_table(root, "nestability_batches"), throughput, config)
    write_page(root, "nestability", table, nestability_page(table, config))
    table = exact_bias_table(exact)
    write_page(root, "exact_bias", table, exact_bias_page(table))
