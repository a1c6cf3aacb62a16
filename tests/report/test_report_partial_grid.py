"""An experiment with a warm-up, whose corrections are run at different skips: all that the report makes of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from synthetic import Effects, make_config, write_results

from nested_reft.cli import main
from nested_reft.config.experiment import Config
from nested_reft.report.collect.collect import collect
from nested_reft.report.figures.style import look_of
from nested_reft.report.figures.tradeoff import tradeoff
from nested_reft.report.registry import FIGURES, PAGES
from nested_reft.report.statistics.comparisons import gains, parity
from nested_reft.report.tidy import read_table

CELLS = [("base", 10), ("unit", 20), ("retrace", 10), ("retrace", 20)]


@pytest.fixture(scope="module")
def config() -> Config:
    return make_config(sizes=1, skips_of={"base": [10], "unit": [20]}, warmup=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    """All tables of made-up results."""
    folder = tmp_path_factory.mktemp("partial")
    write_results(folder, config, Effects(noise=0.01))
    for command in ("collect", "tables", "claims"):
        assert main([command, "--settings", config.canonical_json(), "--root", str(folder)]) == 0
    return folder


def test_a_cell_that_is_not_in_the_grid_is_in_no_comparison(root: Path, config: Config) -> None:
    found = parity(read_table(root, "runs"), config, "sampled")
    assert [(correction, skip) for _, _, correction, skip in found] == CELLS
    assert all(found.values())


def test_the_gain_is_over_the_warmed_up_model(root: Path, config: Config) -> None:
    gain = gains(read_table(root, "runs"), config, "sampled")["small", "stories"]
    assert gain is not None
    # 0.40 as it came, 0.10 more after the warm-up, 0.25 more than as it came after ReFT
    assert gain.estimate == pytest.approx(0.15, abs=0.02)


def test_the_table_of_accuracies_has_one_row_per_model(root: Path) -> None:
    table = pd.read_csv(root / "tables/accuracy_sampled.csv")
    assert list(table["model"]) == [
        "pre-trained", "warmed-up", "baseline ReFT", *(f"{name}, skip {skip} %" for name, skip in CELLS)
    ]  # fmt: skip
    assert "not run" not in (root / "tables/accuracy_sampled.csv").read_text(encoding="utf-8")


def test_claims_count_the_cells_that_are_run(root: Path) -> None:
    claims = pd.read_csv(root / "tables/claims.csv").set_index("id")
    assert " of 1 " in claims.loc["C5-base", "measured"]
    assert " of 2 " in claims.loc["C5-retrace", "measured"]
    assert not claims["measured"].str.contains("not run").any()


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn(root: Path, config: Config, name: str) -> None:
    assert main(["figure", name, "--settings", config.canonical_json(), "--root", str(root)]) == 0
    assert (root / f"figures/{name}.png").stat().st_size


def test_a_correction_that_is_alone_at_a_skip_stands_at_its_speedup(tmp_path: Path) -> None:
    lone = make_config(sizes=1, skips_of={"base": [10], "unit": [10]})
    write_results(tmp_path, lone)
    collect(tmp_path, lone)
    figure = tradeoff(*(read_table(tmp_path, name) for name in ("runs", "throughput", "step_speed")), lone)
    markers = [line for line in figure.axes[0].lines if line.get_marker() == look_of("retrace").marker]
    # 0.8 of the share of layers skipped; at 10 % two others stand beside it.
    x = sorted(float(line.get_xdata()[0]) for line in markers)  # type: ignore[index]
    assert x == pytest.approx([1.08 + 0.07 * 0.16 / 3, 1.16], abs=1e-6)


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_written(root: Path, config: Config, name: str) -> None:
    assert main(["page", name, "--settings", config.canonical_json(), "--root", str(root)]) == 0
    assert "nan" not in (root / f"pages/{name}.html").read_text(encoding="utf-8").split()
