"""Collecting result files into tidy tables."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from synthetic import collect_results, make_config, write, write_results

from nested_reft.config.experiment import Config
from nested_reft.config.records.record import RecordError
from nested_reft.report.collect.collect import collect
from nested_reft.report.registry import TIDY_TABLES
from nested_reft.report.tidy import read_table

EVALUATION = "evaluations/small/stories/base/skip0/seed1/heldout.json"
MANIFEST = "runs/small/stories/base/skip0/seed1/manifest.json"
GRADIENTS, NESTABILITY = "gradients/small/skip10.json", "nestability/pretrained/small/skip10-least-border1.json"
METRICS = "runs/small/stories/base/skip0/seed1/metrics.jsonl"


@pytest.fixture
def tiny() -> Config:
    return make_config(
        sizes=1, benchmarks=2, skips=(10,), corrections=("base",), seeds=(1, 2), steps=3, nestability=True
    )


@pytest.fixture
def compared() -> Config:
    return make_config(
        sizes=1, skips=(10,), corrections=("base",), seeds=(1, 2), steps=3, strategies=("uniform", "static")
    )


@pytest.fixture
def root(tmp_path: Path, tiny: Config) -> Path:
    write_results(tmp_path, tiny)
    return tmp_path


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_runs_are_tidy_and_in_the_configs_order(collected: Path, small: Config) -> None:
    runs = read_table(collected, "runs")
    first = (collected / "tables" / "runs.csv").read_text().splitlines()
    assert first[0] == "size,dataset,correction,skip,seed,benchmark,metric,value,n"
    assert first[1] == "small,,pretrained,0,,heldout,greedy,0.4,50"
    # Per size: the pre-trained model, then 3 seeds of baseline and 3 corrections x 2 skips; 2 benchmarks x 2 metrics.
    assert len(runs) == 2 * (1 + 3 * (1 + 3 * 2)) * 2 * 2
    assert list(runs["size"].unique()) == ["small", "large"]
    models = runs[["correction", "skip"]].drop_duplicates().itertuples(index=False, name=None)
    assert list(models) == [("pretrained", 0), ("base", 0)] + [
        (correction, skip) for correction in ("base", "unit", "retrace") for skip in (10, 20)
    ]


def test_skips_and_seeds_are_ordered_as_numbers(tmp_path: Path) -> None:
    config = make_config(sizes=1, benchmarks=1, skips=(20, 6), corrections=("base",), seeds=(10, 9), steps=1)
    collect_results(tmp_path, config)
    training = read_table(tmp_path, "training")
    assert list(zip(training["skip"], training["seed"], strict=True)) == list(product((0, 6, 20), (9, 10)))
    assert set(training["step"]) == {1}
    assert training["run"][0] == "small/stories/base/skip0/seed9"
    assert list(read_table(tmp_path, "throughput")["skip"]) == [0, 6, 20]
    assert read_table(tmp_path, "strategies").empty  # one strategy is no comparison


def test_accuracies_are_shares_of_right_answers(root: Path, tiny: Config) -> None:
    edit(
        root / EVALUATION,
        items=[{"id": f"heldout-{i}", "greedy": i == 0, "sampled": [True, i == 0, False, False]} for i in range(50)],
    )
    collect(root, tiny)
    runs = read_table(root, "runs")
    cell = runs[(runs["correction"] == "base") & (runs["seed"] == 1) & (runs["benchmark"] == "heldout")]
    values = cell[cell["skip"] == 0].set_index("metric")["value"]
    assert values["greedy"] == pytest.approx(1 / 50)
    assert values["sampled"] == pytest.approx((0.5 + 49 * 0.25) / 50)


def test_throughput_is_the_median_of_paired_ratios(root: Path, tiny: Config) -> None:
    pairs = [
        {"baseline_tokens_per_s": base, "nested_tokens_per_s": nested, "skipped_layers": [3]}
        for base, nested in ((100.0, 110.0), (200.0, 240.0), (50.0, 75.0))
    ]
    edit(root / "throughput/small/skip10.json", pairs=pairs)
    collect(root, tiny)
    row = read_table(root, "throughput").set_index("skip").loc[10]
    assert (row["speedup"], row["tokens_per_s"], row["n"]) == (1.2, 110.0, 3)
    assert (row["speedup_low"], row["speedup_high"]) == (1.1, 1.5)
    table = read_table(root, "throughput_pairs")
    assert list(table[table["skip"] == 10]["speedup"]) == [1.1, 1.2, 1.5]


def test_the_speed_of_a_step_is_the_median_of_paired_ratios_of_whole_steps(root: Path, tiny: Config) -> None:
    pairs = [
        {
            "baseline": {"rollout": full, "reward": 0.0, "update": 1.0},
            "nested": {"rollout": own, "reward": 0.5, "update": 1.0},
            "skipped_layers": [3],
        }
        for full, own in ((2.0, 0.5), (1.0, 0.5), (3.0, 1.0))  # whole steps: 3 and 2, 2 and 2, 4 and 2.5
    ]
    edit(root / "step_speed/small/skip10.json", pairs=pairs)
    collect(root, tiny)
    row = read_table(root, "step_speed").set_index("skip").loc[10]
    assert (row["speedup"], row["seconds"], row["n"]) == (1.5, 2.0, 3)
    assert (row["speedup_low"], row["speedup_high"]) == (1.0, 1.6)
    table = read_table(root, "step_speed_pairs")
    chosen = table[table["skip"] == 10]
    assert list(chosen["speedup"]) == [1.5, 1.0, 1.6]
    assert list(chosen["nested_rollout_seconds"]) == [0.5, 0.5, 1.0]
    assert list(chosen["baseline_update_seconds"]) == [1.0, 1.0, 1.0]


def test_what_was_not_run_is_absent(root: Path, tiny: Config) -> None:
    (root / EVALUATION).unlink()
    (root / METRICS).unlink()
    (root / "throughput/small/skip10.json").unlink()
    collect(root, tiny)
    assert len(read_table(root, "runs")) == (1 + 4) * 2 * 2 - 2
    assert "small/stories/base/skip0/seed1" not in set(read_table(root, "training")["run"])
    assert list(read_table(root, "throughput")["skip"]) == [0]


def test_strategies_are_apart_from_the_grid(tmp_path: Path, compared: Config) -> None:
    collect_results(tmp_path, compared)
    header = (tmp_path / "tables/strategies.csv").read_text().splitlines()[0]
    assert header == "size,dataset,strategy,correction,skip,seed,benchmark,metric,value,n"
    table = read_table(tmp_path, "strategies")
    # The baseline, then the strategies: 2 seeds of 2 benchmarks x 2 metrics and 5 numbers over the steps.
    models = table[["strategy", "correction", "skip"]].drop_duplicates().itertuples(index=False, name=None)
    assert list(models) == [("uniform", "base", 0), ("uniform", "base", 10), ("static", "base", 10)]
    assert len(table) == 3 * 2 * (2 * 2 + 5)
    # The grid has none of it.
    runs, training = read_table(tmp_path, "runs"), read_table(tmp_path, "training")
    assert "strategy" not in {*runs.columns, *training.columns}
    assert len(runs) == (1 + 2 * 2) * 2 * 2
    assert not training["run"].str.contains("static").any()


def test_strategies_have_numbers_over_a_runs_steps(tmp_path: Path, compared: Config) -> None:
    write_results(tmp_path, compared)
    path = tmp_path / "runs/small/stories/base/skip10-static/seed1/metrics.jsonl"
    steps = [json.loads(line) for line in path.read_text().splitlines()]
    layers = ([1], [1, 2], [3])
    for record, kl, speed, skipped in zip(steps, (0.1, None, 0.4), (100.0, 500.0, 300.0), layers, strict=True):
        record |= {"kl_k3": kl, "rollout_tokens_per_s": speed, "chi2": None, "skipped_layers": skipped}
    write(path, "".join(json.dumps(record) + "\n" for record in steps))
    collect(tmp_path, compared)
    table = read_table(tmp_path, "strategies")
    run = table[(table["strategy"] == "static") & (table["seed"] == 1) & (table["benchmark"] == "")]
    assert list(run["metric"]) == ["kl_k3", "ess", "rollout_tokens_per_s", "num_skipped"]  # chi2 was never a number
    assert list(run["value"]) == pytest.approx([0.25, np.exp(-0.6), 300.0, 4 / 3])
    assert list(run["n"]) == [2, 3, 3, 3]


def test_every_run_has_its_manifest_in_a_line(root: Path, tiny: Config) -> None:
    edit(root / MANIFEST, commit=None, dirty=None, gpus=["A", "B"], alarms=[{"step": 1}, {"step": 2}])
    collect(root, tiny)
    table = read_table(root, "manifests").set_index("run")
    assert len(table) == 4
    changed, other = table.loc["small/stories/base/skip0/seed1"], table.loc["small/stories/base/skip10/seed2"]
    assert (changed["commit"], changed["gpus"], changed["alarms"]) == ("", "A B", 2)
    assert (other["commit"], other["gpus"], other["alarms"]) == ("0123abcd", "", 0)
    assert other["packages"] == "torch==2.9.0 numpy==2.1.0"


def test_what_is_no_longer_a_part_of_the_experiment_is_in_no_table(tmp_path: Path) -> None:
    config = make_config(sizes=1, benchmarks=1, seeds=(1,), steps=1, nestability=True)
    write_results(tmp_path, config)
    collect(tmp_path, config)
    full = {name for name in TIDY_TABLES if len(read_table(tmp_path, name))}
    of_parts = {
        "training": {"runs", "gains", "training", "strategies", "samples", "layers", "manifests"},
        "throughput": {"throughput", "throughput_pairs"},
        "step_speed": {"step_speed", "step_speed_pairs"},
        "gradients": {"gradients"},
        "nestability": {"nestability_batches", "behaviour_batches"},
    }
    for part, tables in of_parts.items():
        only = config.model_copy(update={"parts": (part,)})
        collect(tmp_path, only)
        assert {name for name in TIDY_TABLES if len(read_table(tmp_path, name))} == (tables | {"exact"}) & full, part
        assert full & tables, part


def test_an_empty_folder_gives_empty_tables(tmp_path: Path, tiny: Config) -> None:
    collect(tmp_path, tiny)
    assert all(read_table(tmp_path, name).empty for name in TIDY_TABLES)


@pytest.mark.parametrize("text", ["NaN", "null", "Infinity"])
def test_a_diagnostic_may_be_no_number(root: Path, tiny: Config, text: str) -> None:
    path = root / METRICS
    path.write_text(path.read_text().replace('"kl_k3": 0.0', f'"kl_k3": {text}'))
    assert text in path.read_text()
    collect(root, tiny)


def test_a_data_set_called_null_is_a_name(tmp_path: Path, tiny: Config) -> None:
    problems = tiny.datasets["stories"]
    config = tiny.model_copy(update={"datasets": {"null": problems}})
    collect_results(tmp_path, config)
    assert set(read_table(tmp_path, "runs")["dataset"]) == {"", "null"}


def test_broken_json_names_the_file_and_the_remedy(root: Path, tiny: Config) -> None:
    write(root / EVALUATION, '{"size": "small", ')
    with pytest.raises(RecordError) as error:
        collect(root, tiny)
    assert str(root / EVALUATION) in str(error.value)
    assert "delete this file" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "changes", "reason"),
    [
        (EVALUATION, {"seed": 2}, "seed is 2, its path says 1"),
        (EVALUATION, {"items": []}, "items"),
        (EVALUATION, {"items": [{"id": "x", "greedy": 1, "sampled": [True]}]}, "items.0.greedy"),
        (EVALUATION, {"items": [{"id": "x", "greedy": True, "sampled": [True]}]}, "has other problems of 'heldout'"),
        (EVALUATION, {"strategy": "static"}, "strategy is 'static', its path says 'uniform'"),
        (EVALUATION, {"completions": [{"id": "x", "prompt": "?"}]}, "completions.0.gold"),
        (MANIFEST, {"alarms": 3}, "alarms"),
        ("exact.json", {"rows": [{"skipped": "1"}]}, "rows.0.num_skipped"),
        ("throughput/small/skip10.json", {"pairs": []}, "pairs"),
        ("throughput/small/skip10.json", {"size": "huge"}, "size is 'huge'"),
        (NESTABILITY, {"stage": "warmed_up"}, "stage is 'warmed_up', its path says 'pretrained'"),
        (GRADIENTS, {"skip": 20}, "skip is 20, its path says 10"),
        (GRADIENTS, {"batches": 5}, "on_policy is not 5 x 5"),
        (GRADIENTS, {"batches": 2}, "batches"),
        (GRADIENTS, {"repeat": [[1.0] * 16] * 15}, "repeat is not 16 x 16"),
        (GRADIENTS, {"repeat": [[1.0] * 15] * 16}, "repeat is not 16 x 16"),
        (GRADIENTS, {"corrections": {"unit": {"own": [[1.0]], "on_policy": [[1.0]]}}}, "unit.own is not 16 x 16"),
        (GRADIENTS, {"on_policy": [[math.nan] * 16] * 16}, "on_policy.0.0: Input should be a finite number"),
    ],
)
def test_a_foreign_file_is_refused(
    root: Path, tiny: Config, file: str, changes: dict[str, object], reason: str
) -> None:
    edit(root / file, **changes)
    with pytest.raises(RecordError) as error:
        collect(root, tiny)
    assert str(root / file) in str(error.value)
    assert reason in str(error.value)


def test_a_run_cut_short_is_refused(root: Path, tiny: Config) -> None:
    lines = (root / METRICS).read_text().splitlines()
    write(root / METRICS, "\n".join(lines[:-1]) + "\n")
    with pytest.raises(RecordError, match="steps are not 1 to 3"):
        collect(root, tiny)
    write(root / METRICS, "\n".join([lines[0], '{"step": 2}']) + "\n")
    with pytest.raises(RecordError, match="line 2: reward: Field required"):
        collect(root, tiny)
