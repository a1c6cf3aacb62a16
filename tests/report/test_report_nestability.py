"""How nestable each model is, from the records of batches to the table and the figure."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from synthetic import make_config, write_results

from nested_reft.config.experiment import Config
from nested_reft.report.collect.collect import collect
from nested_reft.report.figures.nestability import nestability, nestability_by_size
from nested_reft.report.statistics.nestability import nestability_cells
from nested_reft.report.tables.nestability import nestability_table
from nested_reft.report.tidy import read_table

STAGES = ["pretrained", "warmed_up_without_layer_drop", "warmed_up"]


@pytest.fixture
def warmed() -> Config:
    return make_config(sizes=1, benchmarks=1, seeds=(1, 2), steps=1, warmup=True, nestability=True)


def tidy(root: Path, config: Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    collect(root, config)
    return read_table(root, "nestability_batches"), read_table(root, "throughput")


def test_each_batch_is_a_row_and_each_cell_a_mean_over_batches(tmp_path: Path, warmed: Config) -> None:
    write_results(tmp_path, warmed)
    table, _ = tidy(tmp_path, warmed)
    # 3 models; 3 strategies at skips 10 and 20, and one at skip 0; 4 batches.
    assert len(table) == 3 * (2 * 3 + 1) * 4
    assert list(dict.fromkeys(table["stage"])) == STAGES
    cells = nestability_cells(table, warmed)
    assert len(cells) == 3 * 3 * 2
    found = cells["small", "pretrained", "least_half", 20]
    assert found is not None
    assert found.num_skipped == 2
    # The KLs are 0.1, 0.2, 0.3 and 0.4: t with 3 degrees of freedom is 3.182, the standard error sqrt(0.05 / 12).
    kl = found.intervals["kl_k1"]
    assert kl.estimate == pytest.approx(0.25)
    half = 3.18245 * math.sqrt(0.05 / 12) / 0.25
    assert (kl.low, kl.high) == pytest.approx((0.25 * math.exp(-half), 0.25 * math.exp(half)), rel=1e-5)
    assert found.intervals["ess"].estimate == pytest.approx(sum(math.exp(-n / 10) for n in range(1, 5)) / 4)


def test_the_table_names_models_strategies_and_rewards(tmp_path: Path, warmed: Config) -> None:
    write_results(tmp_path, warmed)
    table = nestability_table(*tidy(tmp_path, warmed), warmed)[0]
    assert list(dict.fromkeys(table["model"])) == [
        "pre-trained",
        "warmed-up, no layer drop",
        "warmed-up, layer drop 0.1",
    ]
    row = table[(table["model"] == "pre-trained") & (table["layers from"] == "uniform") & (table["skip %"] == "20")]
    (found,) = row.to_dict("records")
    assert (found["left out"], found["right (%)"], found["right, full model (%)"]) == ("2", "30.0", "50.0")
    assert found["KL"].startswith("0.5 [")
    # 1 + 0.8 * 0.2 without noise
    assert found["rollout speed-up"].startswith("1.16")


def test_what_was_not_measured_is_not_run(tmp_path: Path, warmed: Config) -> None:
    write_results(tmp_path, warmed)
    for path in (tmp_path / "nestability/warmed_up/small").glob("skip10-*"):
        path.unlink()
    (tmp_path / "nestability/pretrained/small/skip0-uniform-border1.json").unlink()
    table = nestability_table(*tidy(tmp_path, warmed), warmed)[0].set_index(["model", "skip %"])
    gone = table.loc["warmed-up, layer drop 0.1", "10"]
    assert set(gone["KL"]) == set(gone["right (%)"]) == {"not run"}
    assert "not run" not in set(table.loc["warmed-up, layer drop 0.1", "20"]["KL"])
    assert set(table.loc["pre-trained", "10"]["right, full model (%)"]) == {"not run"}


def test_speed_has_no_column_if_the_experiment_times_nothing(tmp_path: Path, warmed: Config) -> None:
    measured = warmed.model_copy(update={"parts": ("nestability",)})
    write_results(tmp_path, measured)
    table, page = nestability_table(*tidy(tmp_path, measured), measured)
    assert not [column for column in table if "speed" in column]
    assert "speed" not in page.notes


def test_the_figure_has_a_column_a_model_and_the_measured_points(tmp_path: Path, warmed: Config) -> None:
    write_results(tmp_path, warmed)
    figure = nestability(*tidy(tmp_path, warmed), warmed)
    assert titles(figure) == ["pre-trained", "warmed-up, no layer drop", "warmed-up, layer drop 0.1"]
    kl = figure.axes[0]
    points = sorted(
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in kl.lines if len(line.get_xdata()) == 1
    )  # type: ignore[index]
    assert [y for _, y in points] == pytest.approx([0.25, 0.125, 0.25 / 3, 0.5, 0.25, 0.5 / 3])
    assert kl.get_yscale() == "log"
    labels = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert labels == ["10\n1.08×", "20\n1.16×"]


def test_other_borders_are_choices_of_layers_of_their_own(tmp_path: Path) -> None:
    config = make_config(sizes=1, benchmarks=1, steps=1, nestability=True, borders=(2, 4))
    write_results(tmp_path, config)
    table, _ = tidy(tmp_path, config)
    assert set(table[table["border"] > 1]["strategy"]) == {"uniform"}
    assert list(table["border"].unique()) == [1, 2, 4]
    cells = nestability_cells(table, config)
    names = ["uniform", "least_half", "least", "uniform, border 2", "uniform, border 4"]
    assert list(dict.fromkeys(name for _, _, name, _ in cells)) == names
    # The KLs are 0.05, 0.1, 0.15 and 0.2 with border 4.
    found = cells["small", "pretrained", "uniform, border 4", 20]
    assert found is not None
    assert found.intervals["kl_k1"].estimate == pytest.approx(0.125)


def test_sizes_are_compared_at_the_share_that_each_leaves_out(tmp_path: Path) -> None:
    config = make_config(sizes=2, benchmarks=1, steps=1, nestability=True, borders=(2,))
    write_results(tmp_path, config)
    for path in (tmp_path / "nestability/pretrained/large").glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        for row in record["batches"]:
            row["ess"] /= 2
        path.write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "nestability/pretrained/large/skip20-least-border1.json").unlink()
    table, _ = tidy(tmp_path, config)
    figure = nestability_by_size(table, config)
    assert titles(figure) == ["uniform", "least_half", "least", "uniform, border 2"]
    uniform, _, least, *_ = figure.axes
    small, large = (line for line in uniform.lines)
    expected = [sum(math.exp(-skip / 100 * n) for n in range(1, 5)) / 4 for skip in (10, 20)]
    assert list(small.get_xdata()) == [0, 10, 20]
    assert list(small.get_ydata()) == pytest.approx([1, *expected])
    assert list(large.get_ydata()) == pytest.approx([1, *(value / 2 for value in expected)])
    assert [len(line.get_xdata()) for line in least.lines] == [3, 2], "what was not measured is not drawn"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["small, 10 layers", "large, 10 layers"]
    assert [text.get_text() for text in nestability_by_size(table.iloc[:0], config).axes[0].texts] == ["not run"]


def test_without_nested_skips_there_is_no_line(tmp_path: Path) -> None:
    baseline = make_config(sizes=2, benchmarks=1, seeds=(1,), steps=1, skips=(0,), nestability=True)
    write_results(tmp_path, baseline)
    figure = nestability_by_size(tidy(tmp_path, baseline)[0], baseline)
    assert [text.get_text() for text in (*figure.texts, *figure.axes[0].texts)] == ["not run"]


def test_a_sampled_kl_below_zero_is_no_error(tmp_path: Path) -> None:
    config = make_config(sizes=2, benchmarks=1, steps=1, nestability=True)
    write_results(tmp_path, config)
    for path in (tmp_path / "nestability").rglob("skip*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        for number, row in enumerate(record["batches"]):
            row["kl_k1"] = -1e-4 * number
        path.write_text(json.dumps(record), encoding="utf-8")
    table, throughput = tidy(tmp_path, config)
    assert nestability(table, throughput, config).axes[0].get_yscale() == "linear"
    assert nestability_table(table, throughput, config)[0]["KL"].str.startswith("-0.00015 [").all()


def titles(figure: Figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes if axis.get_title()]
