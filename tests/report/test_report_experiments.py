"""Experiments that lack something: all that the report makes of them, by its commands."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.figure import Figure
from synthetic import Effects, make_config, write, write_results

from nested_reft.cli import main
from nested_reft.config.experiment import Config
from nested_reft.report.formatting import NO_NESTED_RUNS
from nested_reft.report.registry import FIGURES, PAGES, PRESENTATION_TABLES, asked
from nested_reft.report.statistics.comparisons import gains
from nested_reft.report.tidy import read_table

BASELINE_ONLY = make_config(sizes=1, skips=(0,), warmup=True)
# Its corrections are run at different skips.
PARTIAL = make_config(sizes=1, skips_of={"base": [10], "unit": [20]}, warmup=True)
CELLS = [("base", 10), ("unit", 20), ("retrace", 10), ("retrace", 20)]
CONFIGS = {"baseline": BASELINE_ONLY, "partial": PARTIAL}


def report(folder: Path, config: Config, effects: Effects | None) -> Path:
    """All tables of made-up results, or of no results."""
    if effects:
        write_results(folder, config, effects)
    write(folder / "settings.json", config.canonical_json())
    for command in ("collect", "tables", "claims"):
        assert main([command, "--root", str(folder)]) == 0
    return folder


def test_a_folder_without_settings_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figure", "parity", "--root", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"nested-reft figure: error: {tmp_path}/settings.json: does not exist; `snakemake {tmp_path}"
    )
    write(tmp_path / "settings.json", "{")
    assert main(["figure", "parity", "--root", str(tmp_path)]) == 1
    assert f"{tmp_path}/settings.json: is not JSON" in capsys.readouterr().err


def drawn(root: Path, config: Config, name: str) -> Figure:
    return FIGURES[name].load()(*(read_table(root, table) for table in FIGURES[name].tables), config)


@pytest.fixture(scope="module", params=[True, False], ids=["run", "not run"])
def baseline(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return report(tmp_path_factory.mktemp("baseline"), BASELINE_ONLY, Effects() if request.param else None)


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(tmp_path_factory.mktemp("partial"), PARTIAL, Effects(noise=0.01))


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_table_figure_and_page_is_made(kind: str, baseline: Path, partial: Path) -> None:
    root = {"baseline": baseline, "partial": partial}[kind]
    for name in (*PRESENTATION_TABLES, "claims"):
        assert len(pd.read_csv(root / f"tables/{name}.csv").columns) > 1, name
    for command, names in (("figure", FIGURES), ("page", PAGES)):
        for name in names:
            assert main([command, name, "--root", str(root)]) == 0
    assert {path.stem for path in (root / "figures").glob("*.png")} == set(FIGURES)
    for name in PAGES:
        assert "nan" not in (root / f"pages/{name}.html").read_text(encoding="utf-8").split()


@pytest.mark.parametrize("name", ["equivalence", "gradient_bias"])
def test_what_compares_nested_runs_says_that_there_are_none(baseline: Path, name: str) -> None:
    for kind in ("md", "html"):
        assert NO_NESTED_RUNS in (baseline / f"tables/{name}.{kind}").read_text(encoding="utf-8")


def test_what_a_configuration_does_not_ask_for_is_no_page_of_the_report() -> None:
    measured = {"nestability": True, "precisions": ("float32",), "by_completion": True}
    everything = make_config(strategies=("uniform", "static"), **measured)
    for entries, optional in (
        (FIGURES, {"strategies", "nestability", "nestability_by_size", "behaviours", "completion_gradients"}),
        (PRESENTATION_TABLES, {"layer_choice", "nestability", "behaviours", "completion_bias"}),
    ):
        assert asked(entries, everything) == list(entries)
        assert asked(entries, BASELINE_ONLY) == [name for name in entries if name not in optional]


def test_figures_of_the_baseline_alone(baseline: Path) -> None:
    """Those of nested runs say that there are none, no legend names a correction, and the rewards are drawn."""
    figures = {name: drawn(baseline, BASELINE_ONLY, name) for name in FIGURES}
    for name, figure in figures.items():
        labels = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
        if name != "gradients":  # of estimates, which need no run
            assert not labels & set(BASELINE_ONLY.corrections), name
    for name in ("parity", "layers", "strategies", "gradients", "time"):
        assert "not run" in {text.get_text() for part in (figures[name], *figures[name].axes) for text in part.texts}
    (axis,) = figures["reward"].axes
    assert len(axis.lines) == (0 if read_table(baseline, "training").empty else 1)
    plt.close("all")


def test_only_what_the_baseline_learns_is_judged(baseline: Path) -> None:
    verdicts = read_table(baseline, "claims").set_index("id")["verdict"].to_dict()
    learned = verdicts.pop("C6")
    assert set(verdicts.values()) == {"not run"}
    assert learned == ("supported" if len(read_table(baseline, "runs")) else "not run")


def test_the_gain_is_over_the_warmed_up_model(partial: Path) -> None:
    gain = gains(read_table(partial, "runs"), PARTIAL, "sampled")["small", "stories", "heldout"]
    assert gain is not None
    # 0.40 unmodified, 0.10 more after the warm-up, 0.25 more than unmodified after ReFT
    assert gain.estimate == pytest.approx(0.15, abs=0.02)


def test_tables_have_the_cells_that_are_run(partial: Path) -> None:
    table = pd.read_csv(partial / "tables/accuracy_sampled.csv")
    before = ["pre-trained", "warmed-up", "baseline ReFT"]
    assert list(table["model"]) == [*before, *(f"{name}, skip {skip} %" for name, skip in CELLS)]
    claims = pd.read_csv(partial / "tables/claims.csv").set_index("id")
    assert " of 2 " in claims.loc["C5-base", "measured"]
    assert " of 4 " in claims.loc["C5-retrace", "measured"]
    assert not claims["measured"].str.contains("not run").any()
