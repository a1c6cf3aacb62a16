"""The tables that people read."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from synthetic import Effects, make_config, write_results

from nested_reft.config.experiment import Config
from nested_reft.report.claims.tables import write_claims
from nested_reft.report.collect.collect import collect
from nested_reft.report.registry import PRESENTATION_TABLES
from nested_reft.report.statistics.comparisons import benchmark_means
from nested_reft.report.tables.accuracy import accuracy_greedy, accuracy_sampled, equivalence_table
from nested_reft.report.tables.gradients import exact_bias_table, gradient_bias_table
from nested_reft.report.tables.layer_choice import layer_choice_table
from nested_reft.report.tables.speed import speedup_table
from nested_reft.report.tables.write import write_tables
from nested_reft.report.tidy import read_table


def tables(root: Path, config: Config) -> dict[str, str]:
    collect(root, config)
    write_claims(root, config)
    write_tables(root, config)
    return {path.name: path.read_text() for path in (root / "tables").iterdir()}


def test_accuracy_cells_are_percent_with_an_interval(tmp_path: Path) -> None:
    config = make_config(sizes=1, benchmarks=2, skips=(10,), corrections=("base",), steps=1)
    write_results(tmp_path, config, Effects(cost=0.0))
    tables(tmp_path, config)
    table = accuracy_sampled(read_table(tmp_path, "runs"), config)[0].set_index("model")
    # Benchmarks score 0.08 apart; without noise every seed is the same, so that only the 50 problems vary, 100 in the
    # mean: t = 2.009575 and 1.984217 in Wilson's interval.
    before = {"heldout": "40.0 [27.3, 54.2]", "steps": "32.0 [20.5, 46.2]", "mean": "36.0 [27.2, 45.9]", "IQM": "36.0"}
    assert table.loc["pre-trained", list(before)].to_dict() == before
    after = {"heldout": "65.0 [50.7, 77.0]", "steps": "57.0 [42.9, 70.1]", "mean": "61.0 [51.0, 70.2]"}
    assert table.loc["baseline ReFT", list(after)].to_dict() == after
    assert table.loc["base, skip 10 %", "mean"] == "61.0 [51.1, 70.1]"
    assert "| 61.0 [51.1, 70.1] | 61.0 " in (tmp_path / "tables/accuracy_sampled.md").read_text()  # no text is rounded


def test_problems_of_unequal_benchmarks_count_as_their_mean_varies(small: Config) -> None:
    runs = pd.DataFrame(
        [("small", "stories", "base", 0, 1, name, "greedy", 0.5, n) for name, n in (("heldout", 100), ("steps", 300))],
        columns=["size", "dataset", "correction", "skip", "seed", "benchmark", "metric", "value", "n"],
    )
    # The variance of the mean is 0.25 * (1/100 + 1/300) / 4 = 0.25 / 300.
    assert benchmark_means(runs, small, "greedy")["n"].item() == pytest.approx(300)


def test_the_start_model_has_a_row_for_each_lower_temperature(tmp_path: Path) -> None:
    config = make_config(sizes=1, benchmarks=1, skips=(10,), corrections=("base",), steps=1, warmup=True)
    evaluation = config.evaluation.model_copy(update={"start_temperatures": (0.7, 0.5)})
    config = config.model_copy(update={"evaluation": evaluation})
    write_results(tmp_path, config)
    path = tmp_path / "evaluations/small/warmed_up/heldout.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    for place, item in enumerate(record["items"]):  # the first 30 of 50 problems are right
        item["at"] = {"sampled at T = 0.5": [place < 30] * 4}
    path.write_text(json.dumps(record), encoding="utf-8")
    tables(tmp_path, config)
    table = accuracy_sampled(read_table(tmp_path, "runs"), config)[0].set_index("model")["heldout"]
    assert list(table.index[:4]) == [
        "pre-trained",
        "warmed-up",
        *(f"warmed-up, sampled at T = {t}" for t in (0.7, 0.5)),
    ]
    assert table["warmed-up, sampled at T = 0.7"] == "not run"
    assert table["warmed-up, sampled at T = 0.5"].startswith("60.0 [")
    assert "lower temperatures" in (tmp_path / "tables/accuracy_sampled.md").read_text(encoding="utf-8")
    assert len(accuracy_greedy(read_table(tmp_path, "runs"), config)[0]) == len(table) - 2


def test_what_was_not_run_says_so(tmp_path: Path) -> None:
    config = make_config(sizes=1, benchmarks=2, skips=(10,), corrections=("base", "unit"), steps=1)
    write_results(tmp_path, config)
    for seed in config.seeds:
        (tmp_path / f"evaluations/small/stories/unit/skip10/seed{seed}/steps.json").unlink()
    (tmp_path / "throughput/small/skip10.json").unlink()
    tables(tmp_path, config)
    runs = read_table(tmp_path, "runs")
    row = accuracy_sampled(runs, config)[0].set_index("model").loc["unit, skip 10 %"]
    assert row["heldout"] != "not run"
    assert list(row[["steps", "mean", "IQM"]]) == ["not run"] * 3
    parity = equivalence_table(runs, config)[0].set_index(["correction", "benchmark"])
    assert list(parity.loc[("unit", "steps"), ["difference", "verdict"]]) == ["not run"] * 2
    assert "not run" not in list(parity["verdict"].drop(("unit", "steps")))
    speed = speedup_table(read_table(tmp_path, "throughput"), read_table(tmp_path, "step_speed"), config)[0]
    assert list(speed.set_index("skip %").loc["10", ["rollout tokens/s", "rollout speed-up"]]) == ["not run"] * 2
    assert speed.set_index("skip %").loc["10", "step speed-up"].startswith("1.02")


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    config = make_config(sizes=1, benchmarks=1, skips=(10,), corrections=("base",), seeds=(1,), steps=1)
    write_results(tmp_path, config)
    texts = tables(tmp_path, config)
    row = equivalence_table(read_table(tmp_path, "runs"), config)[0].iloc[0]
    assert (row["low"], row["seeds"], row["verdict"], row["against 0"]) == ("", "1", "no interval", "no interval")
    lines = texts["accuracy_sampled.csv"].splitlines()
    assert "[" in lines[1]  # the pre-trained model, which has no seed
    assert not any("[" in line for line in lines[2:])


def test_equivalence_is_grouped_by_data_set(tmp_path: Path) -> None:
    config = make_config(sizes=2, datasets=2, benchmarks=1, skips=(10,), corrections=("base",), steps=1)
    write_results(tmp_path, config)
    texts = tables(tmp_path, config)
    table = equivalence_table(read_table(tmp_path, "runs"), config)[0]
    cells = list(zip(table["dataset"], table["size"], strict=True))
    assert cells == list(product(("stories", "svamp"), ("small", "large")))
    sections = [line for line in texts["accuracy_sampled.md"].splitlines() if line.startswith("## ")]
    assert sections == ["## Fine-tuning on stories", "## Fine-tuning on svamp"]


def test_gradients_of_each_skip_stand_together(collected: Path, small: Config) -> None:
    table = gradient_bias_table(read_table(collected, "gradients"), small)[0]
    assert list(table["skip %"])[:4] == ["10", "10", "20", "20"]
    assert list(table["correction"])[:4] == ["base", "is_sequence"] * 2
    first, measured = table.iloc[0], read_table(collected, "gradients").iloc[0]
    bounds = (measured[name] for name in ("variance_ratio", "variance_low", "variance_high"))
    assert first["variance ratio"] == "{:.2f} [{:.2f}, {:.2f}]".format(*bounds)
    assert first["with noise (%)"] == f"{100 * measured['bias']:.1f}"
    assert first["verdict"] == "unbiased"


def test_layer_choices_are_compared_with_baseline_and_uniform(tmp_path: Path) -> None:
    config = make_config(sizes=1, benchmarks=2, skips=(10,), steps=1, strategies=("uniform", "static", "influence"))
    # Uniform costs what the skip does, 0.1 of 0.2; of 200 answers, so that nothing is rounded.
    write_results(tmp_path, config, Effects(cost=0.2, strategy_cost={"static": 0.04}))
    for seed in config.seeds:
        (tmp_path / f"evaluations/small/stories/retrace/skip10-influence/seed{seed}/steps.json").unlink()
    tables(tmp_path, config)
    table = layer_choice_table(read_table(tmp_path, "strategies"), config)[0].set_index("strategy")
    accuracies = ["61.0 [51.0, 70.2]", "59.0 [49.1, 68.2]", "55.0 [45.1, 64.5]", "not run"]
    assert list(table["accuracy"]) == accuracies
    assert list(table["difference to baseline"]) == ["", "-2.0 [-3.2, -0.8]", "-6.0 [-7.2, -4.8]", "not run"]
    assert list(table["difference to uniform"]) == ["", "", "-4.0", "not run"]  # by the same in each seed
    # exp(-3 * 0.1), its square, and to the power of 1.5.
    assert list(table["ESS"]) == ["1.000", "0.741", "0.549", "0.638"]


def test_an_adapting_strategy_stands_beside_all_fixed_skips(tmp_path: Path) -> None:
    config = make_config(sizes=1, benchmarks=1, skips=(10, 20), steps=2, strategies=("uniform", "adaptive"))
    write_results(tmp_path, config)
    for seed, layers in zip(config.seeds, ([[1], [2, 3]], [[1, 2], [4, 5]], [[1], [3]]), strict=True):
        path = tmp_path / f"runs/small/stories/retrace/skip20-adaptive/seed{seed}/metrics.jsonl"
        steps = [json.loads(line) for line in path.read_text().splitlines()]
        for record, skipped in zip(steps, layers, strict=True):
            record |= {"skipped_layers": skipped, "rollout_tokens_per_s": 0.12, "ess": 0.9}
        path.write_text("".join(json.dumps(record) + "\n" for record in steps))
    tables(tmp_path, config)
    table = layer_choice_table(read_table(tmp_path, "strategies"), config)[0].set_index("strategy")
    assert list(table.index) == ["baseline ReFT", "uniform, skip 10 %", "uniform", "adaptive"]
    assert list(table["left out"]) == ["0", "1", "2", "1.5"]
    assert list(table["difference to baseline"] != "") == [False, False, True, True]
    # 0.12 tokens/s over 0.1, of which 0.9 and 1 are effective; the fixed skips have exp(-0.3) and exp(-0.6).
    assert list(table["rollouts in equal time"]) == ["", "0.74", "0.55", "1.08"]


def test_exact_biases_have_a_row_an_estimator(collected: Path, small: Config) -> None:
    table = exact_bias_table(read_table(collected, "exact"), small)[0].set_index("correction")
    # 0.125 per layer: layers 1 and 2 weigh one and two, a draw 1.5 per layer; the worst is both together.
    biases = ["bias, on-policy", "bias, 1 drawn", "bias, 2 drawn", "bias, worst layers"]
    assert list(table.loc["retrace", ["params", *biases]]) == ["lambda=1", "0", "0.188", "0.375", "0.375"]
    assert list(table.loc["is_sequence", [*biases, "variance ratio, 2 drawn"]]) == ["0", "0", "0", "0", "3.000"]


def test_what_exists_on_policy_is_not_among_the_worst_layers(collected: Path, small: Config) -> None:
    exact = read_table(collected, "exact")
    exact.loc[exact["num_skipped"] == 0, "bias"] = 9.0
    exact = exact[(exact["num_skipped"] == 0) | (exact["skipped"] == "1")]
    table = exact_bias_table(exact, small)[0].set_index("correction")
    shown = table.loc["retrace", ["bias, on-policy", "bias, 1 drawn", "bias, worst layers"]]
    assert list(shown) == ["9.000", "not run", "0.125"]


def test_second_writing_is_byte_identical(tmp_path: Path) -> None:
    config = make_config(sizes=1, steps=2)
    write_results(tmp_path, config, Effects(noise=0.02))
    first = tables(tmp_path, config)
    assert {
        f"{name}.{kind}" for name in (*PRESENTATION_TABLES, "claims") for kind in ("csv", "md", "tex")
    } <= first.keys()
    assert tables(tmp_path, config) == first


def test_claims_page_links_figures_and_states_the_rules(tmp_path: Path) -> None:
    config = make_config(sizes=1, benchmarks=1, skips=(10,), steps=1)
    write_results(tmp_path, config)
    page = tables(tmp_path, config)["claims.md"]
    assert "[throughput](../figures/throughput.png)" in page
    assert "`snakemake --cores all results/laptop/figures/parity.png`" in page
    assert "within ±5 points of its sampled accuracy" in page
    assert "If" not in page
    assert "two one-sided tests at 2.5 % each" in page


@pytest.mark.parametrize("metric", ["sampled", "greedy"])
def test_the_headline_metric_is_named(tmp_path: Path, metric: str) -> None:
    config = make_config(sizes=1, benchmarks=1, skips=(10,), corrections=("base",), steps=1)
    evaluation = config.evaluation.model_copy(update={"headline": metric})
    config = config.model_copy(update={"evaluation": evaluation})
    assert f"# Accuracy, {metric} (headline metric)" in tables(tmp_path, config)[f"accuracy_{metric}.md"]
