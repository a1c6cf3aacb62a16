"""What behaviour policies are worth, from the timed batches to the claim, the table and the figure."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from synthetic import make_config, write_results

from nested_reft.config.experiment import Config
from nested_reft.report.claims.judge import claim_rows
from nested_reft.report.collect.collect import collect
from nested_reft.report.figures.behaviours import behaviours
from nested_reft.report.registry import FIGURES, PRESENTATION_TABLES, asked
from nested_reft.report.statistics.behaviours import behaviour_cells, worths
from nested_reft.report.tables.behaviours import behaviours_table
from nested_reft.report.tidy import read_table


def timed(**changes: object) -> Config:
    return make_config(
        sizes=1, benchmarks=1, seeds=(1, 2), steps=1, nestability=True, precisions=("float32", "int8"), **changes
    )


def tidy(root: Path, config: Config) -> pd.DataFrame:
    write_results(root, config)
    collect(root, config)
    return read_table(root, "behaviour_batches")


def test_each_timed_batch_is_a_row_and_its_worth_speed_times_sample_size(tmp_path: Path) -> None:
    config = timed()
    table = tidy(tmp_path, config)
    # Two precisions; three strategies at skips 10 and 20, and one at skip 0; four batches.
    assert len(table) == 2 * (2 * 3 + 1) * 4
    cells = behaviour_cells(table, config)
    assert len(cells) == 2 * (2 * 3 + 1)
    found = cells["small", "pretrained", 20, "uniform", "int8"]
    assert found is not None
    # 30 tokens in a second, against 20 in 2 x (1.20 to 1.23) / 1.5 seconds; the KLs are 0.2, 0.4, 0.6 and 0.8.
    speeds = [2 * (1.2 + n / 100) for n in range(4)]
    assert found["speedup"].estimate == pytest.approx(sum(speeds) / 4)
    worth = [speed * math.exp(-0.2 * n) for n, speed in enumerate(speeds, start=1)]
    assert found["effective"].estimate == pytest.approx(sum(worth) / 4)
    assert found["ess"].estimate == pytest.approx(sum(math.exp(-0.2 * n) for n in range(1, 5)) / 4)
    assert cells["small", "pretrained", 0, "uniform", "float32"]["ess"].estimate == 1  # type: ignore[index]


def test_the_claim_is_judged_in_the_precision_of_training(tmp_path: Path) -> None:
    config = timed()
    table = tidy(tmp_path, config)
    found = worths(table, config)
    assert list(found) == [("small", 10), ("small", 20)]
    # At skip 10: 1.10 to 1.13 times as fast with an ESS of exp(-0.1 n): worth 0.995 to 0.757.
    expected = [(1.1 + n / 100) * math.exp(-0.1 * (n + 1)) for n in range(4)]
    assert found["small", 10].estimate == pytest.approx(sum(expected) / 4)  # type: ignore[union-attr]

    def claim(of: Config, rows: pd.DataFrame) -> tuple[str, str]:
        names = ("runs", "step_speed", "throughput", "gradients", "completion_gradients")
        tables = [read_table(tmp_path, name) for name in names]
        *_, last = claim_rows(*tables, rows, of)
        return last.id, last.verdict

    assert claim(config, table) == ("C7", "inconclusive")
    assert claim(config, table.assign(ess=table["ess"] / 2)) == ("C7", "refuted")
    assert claim(config, table.assign(ess=0.999)) == ("C7", "supported")
    assert claim(config, table.iloc[:0]) == ("C7", "not run")
    int8 = timed().model_copy(update={"training": config.training.model_copy(update={"rollout_precision": "int8"})})
    assert claim(int8, table[table["skip"] < 20]) == ("C7", "inconclusive"), "one skip was not run"
    assert worths(table, int8)["small", 10].estimate == pytest.approx(2 * sum(expected) / 4)  # type: ignore[union-attr]


def test_it_is_asked_for_only_if_precisions_are_timed(tmp_path: Path) -> None:
    for config, wanted in ((timed(), True), (make_config(nestability=True), False), (make_config(), False)):
        assert ("behaviours" in asked(FIGURES, config)) == wanted
        assert ("behaviours" in asked(PRESENTATION_TABLES, config)) == wanted
    table, page = behaviours_table(tidy(tmp_path, timed()), timed())
    assert list(table["precision"].unique()) == ["float32", "int8"]
    assert table["ESS"].iloc[0] == "1"
    assert "alone on the machine" in page.notes
    assert "Not run" in behaviours_table(pd.DataFrame(), make_config(nestability=True))[1].notes


def test_the_figure_has_a_point_and_a_name_for_each_policy(tmp_path: Path) -> None:
    config = timed()
    figure = behaviours(tidy(tmp_path, config), config)
    (axis,) = figure.axes
    names = [text.get_text() for text in axis.texts]
    assert names.count("all layers") == 2
    assert names.count("10 %, uniform") == names.count("20 %, least") == 2
    assert {"1×", "2×"} <= set(names), "lines of equal worth"
    points = [line for line in axis.lines if line.get_linestyle() == "None"]
    assert len(points) == 14
    (empty,) = behaviours(pd.DataFrame(), make_config()).axes
    assert [text.get_text() for text in empty.texts] == ["not run"]
