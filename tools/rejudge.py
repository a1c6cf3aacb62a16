"""Judges the reference run again, after a change of the rules or of an interval, from the tables that are kept of it.

    python tools/rejudge.py

Writes its claims, verdicts and cells, and the tables and figures of accuracy, parity, layer choice and trade-off. The
exact table is computed anew. The table of training steps is not kept, as it is large; what came of it, the speed-ups of
whole steps, is in `cells.csv`.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import matplotlib as mpl
import pandas as pd

from nested_reft.config.experiment import Config, load_config
from nested_reft.evaluation.exact import exact_rows
from nested_reft.report.claims.judge import judge_claims
from nested_reft.report.claims.tables import write_judged
from nested_reft.report.figures.draw import draw, save_figure
from nested_reft.report.figures.style import RC
from nested_reft.report.figures.tradeoff import of_speedups
from nested_reft.report.pages.page import write_page
from nested_reft.report.statistics.comparisons import StepSpeedups, rollout_speedups
from nested_reft.report.statistics.intervals import LEVEL, Interval
from nested_reft.report.tables.accuracy import accuracy_page, accuracy_table
from nested_reft.report.tables.gradients import exact_bias_page, exact_bias_table
from nested_reft.report.tables.layer_choice import layer_choice_page, layer_choice_table
from nested_reft.report.tables.parity import equivalence_page, equivalence_table
from nested_reft.report.tables.write import METRICS
from nested_reft.report.tidy import read_table

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config/config.yaml"
REFERENCE = ROOT / "docs/reference/laptop"


def step_speedups(cells: pd.DataFrame) -> StepSpeedups:
    """The speed-ups of whole training steps, as claim C2 was judged on them."""
    return {
        (row["size"], row["dataset"], row["skip"]): Interval(
            row["estimate"], row["low"], row["high"], row["n"], LEVEL, "t of log ratios"
        )
        for row in cells[cells["id"] == "C2"].astype({"skip": int, "n": int}).to_dict("records")
    }


def rejudge(root: Path, config: Config) -> None:
    """Write the tables that can be made again under `root`, a copy of a kept run."""
    names = ("runs", "throughput", "gradients", "strategies", "cells")
    runs, throughput, gradients, strategies, cells = (read_table(root, name) for name in names)
    write_judged(root, judge_claims(runs, step_speedups(cells), throughput, gradients, config), config)
    for metric in METRICS:
        table = accuracy_table(runs, config, metric)
        write_page(root, f"accuracy_{metric}", table, accuracy_page(table, config, metric))
    table = equivalence_table(runs, config)
    write_page(root, "equivalence", table, equivalence_page(table, config))
    table = layer_choice_table(strategies, config)
    write_page(root, "layer_choice", table, layer_choice_page(table, config))
    table = exact_bias_table(pd.DataFrame(exact_rows()))
    write_page(root, "exact_bias", table, exact_bias_page(table))


def redraw(root: Path, config: Config) -> None:
    """Write the figures that show an interval, except those of gradients and speed, whose tables have it."""
    for name in ("accuracy", "parity", "strategies"):
        draw(name, root, config)
    runs, throughput, cells = (read_table(root, name) for name in ("runs", "throughput", "cells"))
    with mpl.rc_context(RC):
        figure = of_speedups(runs, rollout_speedups(throughput, config), step_speedups(cells), config)
        save_figure(figure, root / "figures/tradeoff")


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
