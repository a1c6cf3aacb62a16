"""The run table."""

from __future__ import annotations

import pytest
from snakemake.utils import update_config
from valid_config import COMPARED, CONFIGS, VALID, changed

from nested_reft.config.experiment import benchmark_batches, load_config, parse_config
from nested_reft.config.jobs import settings_by_kind
from nested_reft.config.reading import read_settings
from nested_reft.config.run_table import all_runs, run_table, strategy_table
from nested_reft.config.strict import ConfigError
from nested_reft.core.layer_selection import num_skipped

# --- the run table


def test_the_run_table_has_one_baseline_and_every_correction_at_every_other_skip() -> None:
    runs = run_table(parse_config(VALID))
    # 2 sizes x 2 data sets x (1 baseline + 2 skips x 3 corrections) x 2 seeds
    assert len(runs) == 2 * 2 * 7 * 2
    assert len({run.path for run in runs}) == len(runs)
    assert [run.path for run in runs[:14]] == [
        f"tiny/stories/{cell}/seed{seed}"
        for cell in (
            "base/skip0", "base/skip17", "unit/skip17", "retrace/skip17",
            "base/skip34", "unit/skip34", "retrace/skip34",
        )
        for seed in (1, 2)
    ]  # fmt: skip
    assert [run.path.split("/")[:2] for run in runs[::14]] == [
        ["tiny", "stories"], ["tiny", "more"], ["big", "stories"], ["big", "more"],
    ]  # fmt: skip
    assert {(run.correction, run.skip) for run in runs if run.skip == 0} == {("base", 0)}


def test_the_baseline_runs_even_where_skip_zero_is_not_listed() -> None:
    runs = run_table(parse_config(changed("skips", [34])))
    assert [(run.correction, run.skip) for run in runs[::2][:4]] == [
        ("base", 0), ("base", 34), ("unit", 34), ("retrace", 34),
    ]  # fmt: skip


def test_strategies_are_compared_at_one_skip_with_one_correction() -> None:
    config = parse_config(changed("layer_choice", COMPARED))
    compared = strategy_table(config)
    assert [run.path for run in compared[:4]] == [
        "tiny/stories/retrace/skip17/seed1", "tiny/stories/retrace/skip17/seed2",
        "tiny/stories/retrace/skip17-static/seed1", "tiny/stories/retrace/skip17-static/seed2",
    ]  # fmt: skip
    assert len(compared) == 2 * 2 * 2 * 2
    assert run_table(config) == run_table(parse_config(VALID)), "the grid has the first strategy alone"
    assert len(all_runs(config)) == len(run_table(config)) + len(compared) // 2
    assert strategy_table(parse_config(VALID)) == []


def test_a_strategy_that_adapts_is_compared_with_all_fixed_skips() -> None:
    choice = COMPARED | {"strategies": ["uniform", "adaptive"]}
    compared = strategy_table(parse_config(changed("layer_choice", choice)))
    assert [run.path for run in compared[:6:2]] == [
        "tiny/stories/retrace/skip34/seed1", "tiny/stories/retrace/skip17/seed1",
        "tiny/stories/retrace/skip17-adaptive/seed1",
    ]  # fmt: skip
    settings = changed("layer_choice", choice)
    settings["corrections"] = settings["corrections"] | {"retrace": {"skips": [17]}}
    runs = strategy_table(parse_config(settings))
    assert {run.skip for run in runs} == {17}, "only at the skips that the correction is run at"


def test_the_first_strategy_is_that_of_the_grid_and_the_baseline_has_none() -> None:
    runs = run_table(parse_config(changed("layer_choice", COMPARED | {"strategies": ["contiguous", "uniform"]})))
    assert {(run.skip, run.strategy) for run in runs} == {(0, "uniform"), (17, "contiguous"), (34, "contiguous")}
    assert {run.rollout for run in runs} == {"skip0", "skip17-contiguous", "skip34-contiguous"}


@pytest.mark.parametrize(("strategies", "refused"), [(["alternate"], True), (["uniform", "alternate"], False)])
def test_every_second_layer_must_be_enough_where_it_is_used(strategies: list[str], refused: bool) -> None:
    """Border 1 leaves 4 of 6 layers and 2 of these are every second; 50 % is 3, 17 % is 1."""
    settings = changed("skips", [0, 17, 50])
    settings["layer_choice"] = COMPARED | {"strategies": strategies}
    if refused:
        with pytest.raises(ConfigError, match=r"50 % .* is 3, but 'alternate' can leave out only 2"):
            parse_config(settings)
    else:
        assert len(strategy_table(parse_config(settings))) == 16


@pytest.mark.parametrize(("size", "batches"), [(1, [1, 1, 1]), (2, [2, 1]), (5, [3])])
def test_benchmarks_are_handed_out_in_order(size: int, batches: list[int]) -> None:
    handed = benchmark_batches(parse_config(changed("evaluation/benchmarks_per_job", size)))
    assert [len(batch) for batch in handed] == batches
    assert [name for batch in handed for name in batch] == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("name", "runs"),
    # sizes x data sets x (1 + skips x corrections + other strategies) x seeds
    [
        ("config", 2 * 1 * (1 + 3 * 3 + 2) * 4),
        ("smoke", 1 * 1 * (1 + 1 * 3 + 2) * 2),
        ("paper", 2 * 3 * (1 + 3 * 3) * 3),
        ("smollm2", 1 * 1 * (1 + 5 + 1) * 3),
        ("nestability", 0),
    ],
)
def test_the_project_s_configs_load(name: str, runs: int) -> None:
    assert len(all_runs(load_config(CONFIGS / f"{name}.yaml"))) == runs


def test_every_config_file_is_tested() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {"config", "smoke", "paper", "smollm2", "nestability"}


def test_changes_go_on_top_of_a_config() -> None:
    changes = {path.stem: read_settings(path) for path in (CONFIGS / "changes").glob("*.yaml")}
    assert set(changes) == {
        "smollm2-baseline", "smollm2-gradients", "nestability-gsm8k", "behaviours", "pretrained-again",
    }  # fmt: skip
    settings = read_settings(CONFIGS / "smollm2.yaml")
    update_config(settings, changes["smollm2-baseline"])  # what Snakemake does with a second --configfile
    config, whole = parse_config(settings), load_config(CONFIGS / "smollm2.yaml")
    assert [(run.skip, run.seed) for run in all_runs(config)] == [(0, seed) for seed in whole.seeds]
    changed = {"steps": 2 * whole.training.steps}
    assert config.training == whole.training.model_copy(update=changed)
    assert (config.evaluation, config.warmup) == (whole.evaluation, whole.warmup)


def test_other_pretrained_models_change_nothing_but_the_models() -> None:
    settings = read_settings(CONFIGS / "config.yaml")
    update_config(settings, read_settings(CONFIGS / "changes/pretrained-again.yaml"))
    config, whole = parse_config(settings), load_config(CONFIGS / "config.yaml")
    assert config.pretraining != whole.pretraining
    kept = {"experiment": whole.experiment, "pretraining": whole.pretraining}
    assert config.model_copy(update=kept) == whole


def test_the_gradients_of_smollm2_can_be_measured_alone() -> None:
    settings = read_settings(CONFIGS / "smollm2.yaml")
    update_config(settings, read_settings(CONFIGS / "changes/smollm2-gradients.yaml"))
    jobs = {kind: len(of) for kind, of in settings_by_kind(parse_config(settings), "135m").items()}
    assert jobs == {"model": 1, "warmup": 1, "gradients": 4, "completion_gradients": 3}


@pytest.mark.parametrize(
    ("change", "data", "choices"),
    # skip 0, then each skip with three strategies and two more borders
    [(None, "svamp", 1 + 3 * (3 + 2)), ("nestability-gsm8k", "gsm8k", 1 + 3 * (3 + 2)), ("behaviours", "svamp", 1 + 3)],
)
def test_the_study_by_size_measures_and_trains_nothing(change: str | None, data: str, choices: int) -> None:
    settings = read_settings(CONFIGS / "nestability.yaml")
    if change:
        update_config(settings, read_settings(CONFIGS / f"changes/{change}.yaml"))
    config = parse_config(settings)
    assert config.experiment == ("nestability" if not change else change.replace("-", "_"))
    assert config.nestability is not None
    assert (config.nestability.dataset or next(iter(config.datasets))) == data
    counts = {size: num_skipped(config.sizes[size].layers, 5) for size in config.sizes}
    assert counts == {"135m": 2, "0.5b": 1, "1.5b": 1}
    for size in config.sizes:
        jobs = {kind: len(of) for kind, of in settings_by_kind(config, size).items()}
        assert jobs == {"model": 1, "nestability": choices} | ({} if change == "behaviours" else {"influence": 1})


@pytest.mark.parametrize(
    ("layers", "percent", "count"), [(8, 12, 1), (8, 25, 2), (8, 38, 3), (28, 5, 1), (28, 10, 3), (28, 15, 4)]
)
def test_skipped_count(layers: int, percent: int, count: int) -> None:
    assert num_skipped(layers, percent) == count
