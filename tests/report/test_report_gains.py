"""What reinforcement gains on each benchmark, over seeds and problems."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from interval_coverage import Setting, coverage_of_gains
from synthetic import make_config, write_results

from nested_reft.config.experiment import Config
from nested_reft.report.collect.collect import collect
from nested_reft.report.statistics.intervals import crossed_difference, paired_difference
from nested_reft.report.tables.accuracy import gain_by_benchmark_table
from nested_reft.report.tidy import read_table


def test_the_interval_by_hand() -> None:
    # Seeds' means 0.2 and 0.3: variance 0.005, over 2: 0.0025. Problems' means 0.15 and 0.35: 0.02, over 2: 0.01.
    # t_{0.975, 1}^2 = 12.706205^2 = 161.447639; the half-width is sqrt(161.447639 * 0.0125) = 1.4205968.
    # On the artanh scale: artanh(0.25) = 0.2554128, slope 1 / (1 - 0.0625) = 1.0666667, half-width 1.5153033.
    found = crossed_difference(np.array([[0.1, 0.3], [0.2, 0.4]]))
    assert found.estimate == pytest.approx(0.25)
    assert (found.low, found.high) == pytest.approx((math.tanh(-1.2598905), math.tanh(1.7707161)), abs=1e-6)
    assert (found.n, found.method) == (2, "t on the artanh scale, over seeds and problems")


def test_problems_that_gain_alike_leave_what_varies_between_seeds() -> None:
    seeds = np.array([0.1, 0.2, 0.3])
    of_seeds = paired_difference(seeds, np.zeros(3))
    found = crossed_difference(np.repeat(seeds[:, None], 40, axis=1))
    assert (found.low, found.high) == pytest.approx((of_seeds.low, of_seeds.high))


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1)])
def test_one_seed_or_one_problem_has_no_interval(shape: tuple[int, int]) -> None:
    found = crossed_difference(np.full(shape, 0.5))
    assert found.estimate == 0.5
    assert not found.exists


@pytest.mark.parametrize("shape", [(3,), (0, 3), (3, 0), (2, 2, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="seeds, problems"):
        crossed_difference(np.zeros(shape))


# The whole grid is in tools/interval_coverage.py.
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.05])
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_it_holds_the_truth_as_often_as_it_says(seeds: int, spread: float, correlation: float) -> None:
    held, _ = coverage_of_gains((0.25, 0.33), Setting(spread, seeds, 100, correlation, answers=2), repeats=600)
    assert held >= 0.93


@pytest.fixture
def config() -> Config:
    grid = {"sizes": 1, "skips": (10, 20), "corrections": ("base", "unit"), "skips_of": {"unit": [10]}, "seeds": (1, 2)}
    return make_config(**grid, steps=1, warmup=True)


def answer(root: Path, model: str, benchmark: str, rights: list[list[bool]]) -> None:
    """Let a model answer the benchmark's problems like this, `rights` being its sampled answers, one list per problem;
    its greedy answer is the first of them.
    """
    path = root / "evaluations" / "small" / model / f"{benchmark}.json"
    items = [{"id": f"p{i}", "greedy": right[0], "sampled": right} for i, right in enumerate(rights)]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"items": items}))


def test_gains_are_paired_by_problem_with_the_warmed_up_model(tmp_path: Path, config: Config) -> None:
    write_results(tmp_path, config)
    for path in (tmp_path / "evaluations/small/stories").rglob("heldout.json"):
        model = str(path.parent.relative_to(tmp_path / "evaluations/small"))
        answer(tmp_path, model, "heldout", [[True, True], [True, False]])
    for stage in ("pretrained", "warmed_up"):
        answer(tmp_path, stage, "heldout", [[True, False], [False, False]])
    answer(tmp_path, "stories/base/skip0/seed2", "heldout", [[True, False], [True, True]])
    collect(tmp_path, config)
    gains = read_table(tmp_path, "gains")
    # 1 baseline and 3 nested cells, 2 benchmarks, 2 metrics.
    assert len(gains) == 16
    cell = gains[(gains["correction"] == "base") & (gains["skip"] == 0) & (gains["benchmark"] == "heldout")]
    greedy, sampled = (cell[cell["metric"] == metric].iloc[0] for metric in ("greedy", "sampled"))
    by_hand = crossed_difference(np.array([[0.5, 0.5], [0.0, 1.0]]))
    assert tuple(sampled[["gain", "low", "high"]]) == pytest.approx((by_hand.estimate, by_hand.low, by_hand.high))
    assert tuple(sampled[["seeds", "n"]]) == (2, 2)
    assert greedy["gain"] == 0.5


def test_a_gain_is_the_difference_of_the_accuracies(collected: Path) -> None:
    runs, gains = read_table(collected, "runs"), read_table(collected, "gains")
    key = ["size", "benchmark", "metric"]
    start = runs[runs["correction"] == "pretrained"].set_index(key)["value"]
    after = runs[runs["correction"] != "pretrained"].groupby([*key, "correction", "skip"])["value"].mean()
    found = gains.set_index([*key, "correction", "skip"])["gain"]
    assert len(found) == len(after)
    for cell, value in after.items():
        assert found[cell] == pytest.approx(value - start[cell[:3]])  # type: ignore[index]


def test_the_table_says_what_was_not_run(tmp_path: Path, config: Config) -> None:
    write_results(tmp_path, config)
    for seed in config.seeds:
        (tmp_path / f"evaluations/small/stories/unit/skip10/seed{seed}/steps.json").unlink()
        for benchmark in config.benchmarks:
            (tmp_path / f"evaluations/small/stories/base/skip20/seed{seed}/{benchmark}.json").unlink()
    (tmp_path / "evaluations/small/stories/base/skip10/seed2/heldout.json").unlink()
    collect(tmp_path, config)
    table, page = gain_by_benchmark_table(read_table(tmp_path, "gains"), config)
    table = table.set_index("model")
    assert list(table.index) == ["baseline ReFT", "base, skip 10 %", "base, skip 20 %", "unit, skip 10 %"]
    assert list(table["seeds"]) == ["2", "2", "0", "2"]
    assert list(table.loc["base, skip 20 %", list(config.benchmarks)]) == ["not run", "not run"]
    assert table.loc["unit, skip 10 %", "steps"] == "not run"
    assert "[" not in table.loc["base, skip 10 %", "heldout"]  # one seed has no interval
    assert table.loc["baseline ReFT", "heldout"].startswith("+")
    assert "warmed-up" in page.title
