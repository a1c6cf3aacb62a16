"""Judges the reference run again, after a change of the rules or of an interval, from the tables that are kept of it.

    python tools/rejudge.py

Writes its claims, verdicts and cells, and the tables and figures of accuracy, parity, layer choice and trade-off. The
exact table is computed again. The table of training steps is large and not kept, so the figures that are drawn from it
stay as they are.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pandas as pd

from nested_reft.config.experiment import Config, load_config
from nested_reft.evaluation.exact import exact_rows
from nested_reft.report.claims.judge import claim_rows
from nested_reft.report.claims.tables import write_judged
from nested_reft.report.figures.draw import draw
from nested_reft.report.pages.page import write_page
from nested_reft.report.registry import METRICS
from nested_reft.report.tables.accuracy import accuracy_page, accuracy_table
from nested_reft.report.tables.gains import gain_page, gain_table
from nested_reft.report.tables.gradients import exact_bias_page, exact_bias_table
from nested_reft.report.tables.layer_choice import layer_choice_page, layer_choice_table
from nested_reft.report.tables.parity import equivalence_page, equivalence_table
from nested_reft.report.tidy import read_table

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config/config.yaml"
REFERENCE = ROOT / "docs/reference/laptop"


def rejudge(root: Path, config: Config) -> None:
    """Write the tables that can be made again under `root`, a copy of a kept run."""
    names = ("runs", "throughput", "step_speed", "gradients", "strategies")
    runs, throughput, step_speed, gradients, strategies = (read_table(root, name) for name in names)
    write_judged(root, claim_rows(runs, step_speed, throughput, gradients, config), config)
    for metric in METRICS:
        table = accuracy_table(runs, config, metric)
        write_page(root, f"accuracy_{metric}", table, accuracy_page(table, config, metric))
    table = gain_table(read_table(root, "gains"), config)
    write_page(root, "gain_by_benchmark", table, gain_page(table, config))
    table = equivalence_table(runs, config)
    write_page(root, "equivalence", table, equivalence_page(table, config))
    table = layer_choice_table(strategies, config)
    write_page(root, "layer_choice", table, layer_choice_page(table, config))
    table = exact_bias_table(pd.DataFrame(exact_rows()))
    write_page(root, "exact_bias", table, exact_bias_page(table))


def redraw(root: Path, config: Config) -> None:
    """Write the figures that show an interval, except those of gradients and speed, whose tables have it."""
    for name in ("accuracy", "parity", "strategies", "tradeoff"):
        draw(name, root, config)


def main() -> None:
    """Judge and draw in a copy, and keep of it what is kept of a run."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "run"
        shutil.copytree(REFERENCE, root)
        config = load_config(CONFIG)
        rejudge(root, config)
        redraw(root, config)
        for kept in REFERENCE.glob("*/*"):
            shutil.copy(root / kept.relative_to(REFERENCE), kept)


if __name__ == "__main__":
    main()
