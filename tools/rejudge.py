"""Judges the kept reference runs again, after a change of the rules or of an interval, from the tables that are kept.

    python tools/rejudge.py             # all of docs/reference
    python tools/rejudge.py laptop      # one of them

Writes what is kept of the claims, of all tables for people, and of the figures whose tables are kept. What is in no
kept table is "not run". The exact table is computed again. The table of training steps is large and not kept, so the
figures that are drawn from it stay as they are.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import pandas as pd
from snakemake.utils import update_config

from nested_reft.config.experiment import Config, parse_config
from nested_reft.config.reading import read_settings
from nested_reft.evaluation.exact import exact_rows
from nested_reft.report.claims.tables import write_claims
from nested_reft.report.collect.collect import collect
from nested_reft.report.figures.draw import draw
from nested_reft.report.registry import FIGURES
from nested_reft.report.tables.write import write_tables
from nested_reft.report.tidy import write_table

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs/reference"
# The configuration of each run, as Snakemake's option names it.
CONFIGS = {
    "laptop": (),
    "smollm2": ("config/smollm2.yaml",),
    "smollm2_baseline": ("config/smollm2.yaml", "config/changes/smollm2-baseline.yaml"),
    "smollm2_gradients": ("config/smollm2.yaml", "config/changes/smollm2-gradients.yaml"),
    "nestability": ("config/nestability.yaml",),
}


def config_of(run: str) -> Config:
    """The configuration of a kept run: later files change the first, as Snakemake's do."""
    first, *changes = CONFIGS[run] or ("config/config.yaml",)
    settings = read_settings(ROOT / first)
    for path in changes:
        update_config(settings, read_settings(ROOT / path))
    return parse_config(settings)


def rejudge(run: str, root: Path) -> None:
    """Write the tables of a kept run under `root`, an empty folder."""
    config = config_of(run)
    collect(root, config)  # with nothing to collect: the tables that are not kept are empty
    shutil.copytree(REFERENCE / run / "tables", root / "tables", dirs_exist_ok=True)
    write_table(root, "exact", pd.DataFrame([row.model_dump() for row in exact_rows()]))
    write_claims(root, config, options=f"--configfile {' '.join(CONFIGS[run])}" if CONFIGS[run] else "")
    write_tables(root, config)


def redraw(run: str, root: Path) -> None:
    """Draw the kept figures whose tables are all kept, from the tables under `root`."""
    for path in sorted((REFERENCE / run / "figures").glob("*.png")):
        if all((REFERENCE / run / f"tables/{table}.csv").exists() for table in FIGURES[path.stem].tables):
            draw(path.stem, root, config_of(run))


def main() -> None:
    """Judge and draw in a folder of its own, and keep of it what is kept of a run."""
    for run in sys.argv[1:] or CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            rejudge(run, root)
            redraw(run, root)
            for kept in (REFERENCE / run).glob("*/*"):
                if (made := root / kept.relative_to(REFERENCE / run)).exists():
                    shutil.copy(made, kept)


if __name__ == "__main__":
    main()
