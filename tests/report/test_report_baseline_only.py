"""An experiment without nested runs: the report says so, and shows what there is of the baseline."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from synthetic import make_config, write_results

from nested_reft.cli import main
from nested_reft.config.experiment import Config
from nested_reft.report.formatting import NO_NESTED_RUNS
from nested_reft.report.registry import FIGURES, PAGES, PRESENTATION_TABLES
from nested_reft.report.tidy import read_table


@pytest.fixture(scope="module")
def config() -> Config:
    return make_config(sizes=1, skips=(0,), warmup=True)


@pytest.fixture(scope="module", params=[True, False], ids=["run", "not run"])
def root(tmp_path_factory: pytest.TempPathFactory, config: Config, request: pytest.FixtureRequest) -> Path:
    """All tables of made-up results, or of no results."""
    folder = tmp_path_factory.mktemp("baseline")
    if request.param:
        write_results(folder, config)
    for command in ("collect", "tables", "claims"):
        assert main([command, "--settings", config.canonical_json(), "--root", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("name", ["equivalence", "gradient_bias"])
def test_what_compares_nested_runs_says_that_there_are_none(root: Path, name: str) -> None:
    assert NO_NESTED_RUNS in (root / f"tables/{name}.md").read_text(encoding="utf-8")
    assert NO_NESTED_RUNS in (root / f"tables/{name}.html").read_text(encoding="utf-8")


def test_every_table_can_be_read(root: Path) -> None:
    for name in (*PRESENTATION_TABLES, "claims"):
        assert len(pd.read_csv(root / f"tables/{name}.csv").columns) > 1, name


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn(root: Path, config: Config, name: str) -> None:
    figure = FIGURES[name].load()(*(read_table(root, table) for table in FIGURES[name].tables), config)
    assert figure.axes
    plt.close(figure)


@pytest.mark.parametrize("name", ["parity", "layers", "strategies", "gradients", "time"])
def test_figures_of_nested_runs_say_that_they_were_not_run(root: Path, config: Config, name: str) -> None:
    figure = FIGURES[name].load()(*(read_table(root, table) for table in FIGURES[name].tables), config)
    assert "not run" in {text.get_text() for part in (figure, *figure.axes) for text in part.texts}
    plt.close(figure)


def test_legends_name_no_correction(root: Path, config: Config) -> None:
    for name, entry in FIGURES.items():
        figure = entry.load()(*(read_table(root, table) for table in entry.tables), config)
        labels = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
        if name != "gradients":  # of estimates, which need no run
            assert not labels & set(config.corrections), name
        plt.close(figure)


@pytest.mark.parametrize("name", ["reward", "reward_time"])
def test_the_rewards_of_the_baseline_are_drawn(root: Path, config: Config, name: str) -> None:
    table = read_table(root, "training")
    (axis,) = FIGURES[name].load()(table, config).axes
    assert len(axis.lines) == (0 if table.empty else 1)
    plt.close("all")


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_written(root: Path, config: Config, name: str) -> None:
    PAGES[name].load()(root, config)
    assert (root / f"pages/{name}.html").stat().st_size > 100


def test_only_what_the_baseline_learns_is_judged(root: Path) -> None:
    verdicts = read_table(root, "claims").set_index("id")["verdict"].to_dict()
    learned = verdicts.pop("C6")
    assert set(verdicts.values()) == {"not run"}
    assert learned == ("supported" if len(read_table(root, "runs")) else "not run")
