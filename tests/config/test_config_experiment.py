"""The config: what is refused and how, the run table, and that it agrees with the core about names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from nested_reft.config import (
    CORRECTIONS,
    ConfigError,
    CorrectionParams,
    Training,
    load_config,
    parse_config,
    run_table,
)
from nested_reft.config.experiment import CORRECTION_PARAMETERS, benchmark_batches, skipped_count
from nested_reft.config.jobs import data_settings, evaluate_settings, train_settings
from nested_reft.core.advantages import BASELINES
from nested_reft.core.corrections import PARAMETERS
from nested_reft.core.loss import NORMALISATIONS

CONFIGS = Path(__file__).parents[2] / "config"
PROBLEMS = {"source": "generated", "problems": 8}
VALID: dict[str, Any] = {
    "experiment": "test",
    "sizes": {
        "tiny": {
            "source": "scratch", "layers": 6, "width": 16, "heads": 2, "key_value_heads": 1, "feed_forward": 32,
            "pretraining_steps": 5, "pretraining_learning_rate": 0.01,
        },
        "big": {"source": "hub", "repo": "some/model", "layers": 28},
    },
    "datasets": {"stories": PROBLEMS, "more": PROBLEMS},
    "benchmarks": {"one": PROBLEMS, "two": PROBLEMS, "three": PROBLEMS},
    "skips": [17, 0, 34],
    "corrections": {"base": {"clip_low": 0.2}, "unit": {}, "retrace": {"lambda": 0.9}},
    "seeds": [1, 2],
    "prompt": {"style": "plain"},
    "pretraining": {"problems": PROBLEMS, "batch_size": 4},
    "training": {
        "steps": 2, "problems_per_step": 2, "completions_per_problem": 2, "max_new_tokens": 4, "learning_rate": 0.1,
    },
    "evaluation": {"samples_per_problem": 2, "max_new_tokens": 4},
    "throughput": {"problems": 2, "completions_per_problem": 2, "new_tokens": 4},
}  # fmt: skip
REMOVE = object()


def changed(path: str, value: Any) -> dict[str, Any]:
    """The valid settings with one of them set, or removed."""
    settings = json.loads(json.dumps(VALID))  # not deepcopy, which keeps shared parts shared
    *parents, last = path.split("/")
    inner = settings
    for key in parents:
        inner = inner[key]
    if value is REMOVE:
        del inner[last]
    else:
        inner[last] = value
    return settings


# (what is changed, its value, everything that the one line must say)
REFUSED = [
    ("training/lerning_rate", 0.1, ["training.lerning_rate: unknown key", "did you mean 'learning_rate'?"]),
    ("expriment", "x", ["expriment: unknown key", "did you mean 'experiment'?"]),
    ("sizes/tiny/layer", 3, ["sizes.tiny.layer: unknown key", "did you mean 'layers'?"]),
    ("benchmarks/one/distractor", [0, 1], ["benchmarks.one.distractor: unknown key", "did you mean 'distractors'?"]),
    ("pretraining/problems/step", [1, 1], ["pretraining.problems.step: unknown key", "did you mean 'steps'?"]),
    ("corrections/retrase", {}, ["corrections.retrase: unknown value 'retrase'", "did you mean 'retrace'?"]),
    ("corrections/retrace", {"lamda": 1.0}, ["corrections.retrace.lamda: unknown key", "did you mean 'lambda'?"]),
    ("corrections/retrace", {"lambda": 1.5}, ["corrections.retrace.lambda", "less than or equal to 1", "got 1.5"]),
    ("corrections/unit", {"lambda": 1.0}, ["corrections.unit.lambda: 'unit' has no such parameter; it has: none"]),
    ("corrections/base", {"C": 2.0}, ["corrections.base.C: 'base' has no such parameter; it has: clip_low, clip_high"]),
    ("corrections/unit", None, ["corrections.unit", "got None"]),
    ("corrections", {"unit": {}}, ["corrections: needs 'base'", "at skip 0 is the baseline ReFT"]),
    ("skips", [0, 84], ["skips: 84 % of the 6 layers of 'tiny' is 5", "leaves only 4", "lower the skip or the border"]),
    ("skips", [0, 100], ["skips", "less than 100", "got 100"]),
    ("skips", [0, 5], ["skips: 5 % of the 6 layers of 'tiny' rounds to no layer"]),
    ("skips", [0, 17.5], ["skips", "integer", "got 17.5"]),
    ("skips", [17, 17], ["skips: has a value twice: [17, 17]"]),
    ("skips", [], ["skips", "at least 1"]),
    ("seeds", [3, 3], ["seeds: has a value twice: [3, 3]"]),
    ("seeds", [-1], ["seeds: must not be negative: [-1]"]),
    ("training/border", 3, ["skips: 17 % of the 6 layers of 'tiny' is 1", "border 3 leaves only 0"]),
    ("training/border", -1, ["training.border", "greater than or equal to 0", "got -1"]),
    ("training/steps", REMOVE, ["training.steps: is missing"]),
    ("prompt", REMOVE, ["prompt: is missing"]),
    ("sizes/tiny/width", REMOVE, ["sizes.tiny.width: is missing"]),
    ("pretraining", REMOVE, ["pretraining: is missing", "sizes has a model with 'source: scratch'"]),
    ("sizes/tiny/source", "scrach", ["sizes.tiny.source: unknown value 'scrach'", "did you mean 'scratch'?"]),
    ("datasets/stories/source", "web", ["datasets.stories.source: unknown value 'web'", "possible: generated, hub"]),
    ("datasets/stories/source", REMOVE, ["datasets.stories: needs the key 'source'"]),
    ("sizes/tiny/width", 18, ["sizes.tiny: width: 18 must be a multiple of 2 * heads = 4"]),
    ("sizes/tiny/heads", 3, ["sizes.tiny: width: 16 must be a multiple of 2 * heads = 6"]),
    ("sizes/tiny/key_value_heads", 3, ["sizes.tiny: key_value_heads: 3 does not divide heads = 2"]),
    ("sizes/big/repo", "model", ["sizes.big.repo", "got 'model'"]),
    ("benchmarks/one/start", [9, 2], ["benchmarks.one: start: the first number must not be above the second"]),
    ("training/dtype", "float16", ["training.dtype: unknown value 'float16'", "did you mean 'bfloat16'?"]),
    ("training/normalisation", "gpro", ["training.normalisation: unknown value 'gpro'", "did you mean 'grpo'?"]),
    ("training/completions_per_problem", 1, ["training.completions_per_problem", "greater than or equal to 2"]),
    ("training/steps", "many", ["training.steps", "integer", "got 'many'"]),
    ("device", "gpu", ["device: unknown value 'gpu'"]),
    ("experiment", "My Test", ["experiment", "got 'My Test'"]),
    ("sizes/Tiny Model", {"source": "hub", "repo": "a/b", "layers": 28}, ["sizes", "Tiny Model"]),
    ("throughput/pairs", 2, ["throughput.pairs", "greater than or equal to 3", "got 2"]),
]  # fmt: skip


def message_of(settings: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(settings, "my.yaml")
    return str(caught.value)


def test_the_settings_that_the_cases_change_are_valid() -> None:
    assert parse_config(VALID).experiment == "test"


@pytest.mark.parametrize(("path", "value", "parts"), REFUSED)
def test_what_is_wrong_is_said_in_one_line_with_key_and_remedy(path: str, value: Any, parts: list[str]) -> None:
    message = message_of(changed(path, value))
    assert message.startswith("my.yaml: ")
    assert "\n" not in message
    assert len(message) < 300
    for part in parts:
        assert part in message


def test_several_mistakes_are_all_named() -> None:
    settings = changed("training/lerning_rate", 0.1)
    settings["seeds"] = [1, 1]
    del settings["prompt"]
    message = message_of(settings)
    for part in ("training.lerning_rate: unknown key", "seeds: has a value twice", "prompt: is missing"):
        assert part in message


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("a: [1, 2", ["is not valid YAML"]),
        ("a: b: c", ["is not valid YAML"]),
        ("\tx: 1", ["is not valid YAML"]),
        ("- 1\n- 2", ["must hold keys and values, got list"]),
        ("", ["must hold keys and values, got NoneType"]),
        (b"\xff\xfe\x00", ["is not valid YAML"]),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, content: str | bytes, parts: list[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_a_missing_file_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: no such file; config/ has config.yaml, smoke.yaml and paper"):
        load_config(tmp_path / "none.yaml")
    assert {"config.yaml", "smoke.yaml", "paper.yaml"} <= {path.name for path in CONFIGS.iterdir()}


def test_a_config_survives_the_way_through_a_file(tmp_path: Path) -> None:
    path = tmp_path / "same.yaml"
    path.write_text(yaml.safe_dump(VALID), encoding="utf-8")
    assert load_config(path) == parse_config(VALID)


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


@pytest.mark.parametrize(("size", "batches"), [(1, [1, 1, 1]), (2, [2, 1]), (5, [3])])
def test_benchmarks_are_handed_out_in_order(size: int, batches: list[int]) -> None:
    handed = benchmark_batches(parse_config(changed("evaluation/benchmarks_per_job", size)))
    assert [len(batch) for batch in handed] == batches
    assert [name for batch in handed for name in batch] == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("name", "runs"),
    # sizes x data sets x (1 + skips x corrections) x seeds
    [("config", 2 * 1 * (1 + 3 * 3) * 3), ("smoke", 1 * 1 * (1 + 1 * 3) * 2), ("paper", 2 * 3 * (1 + 3 * 3) * 3)],
)
def test_the_project_s_configs_load(name: str, runs: int) -> None:
    assert len(run_table(load_config(CONFIGS / f"{name}.yaml"))) == runs


def test_every_config_file_is_tested() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {"config", "smoke", "paper"}


@pytest.mark.parametrize(
    ("layers", "percent", "count"), [(8, 12, 1), (8, 25, 2), (8, 38, 3), (28, 5, 1), (28, 10, 3), (28, 15, 4)]
)
def test_skipped_count(layers: int, percent: int, count: int) -> None:
    assert skipped_count(layers, percent) == count


# --- what a job depends on


def test_a_run_s_key_depends_on_what_the_run_depends_on_alone() -> None:
    def key(settings: dict[str, Any]) -> str:
        config = parse_config(settings)
        run = next(run for run in run_table(config) if run.path == "tiny/stories/retrace/skip17/seed1")
        return train_settings(config, run).key

    same = [("seeds", [1]), ("corrections/unit", REMOVE), ("evaluation/max_new_tokens", 9), ("throughput/pairs", 5)]
    other = [("training/learning_rate", 0.2), ("corrections/retrace", {"lambda": 0.8}), ("prompt/suffix", " =")]
    assert {key(changed(*change)) for change in same} == {key(VALID)}
    assert len({key(changed(*change)) for change in other} | {key(VALID)}) == 4


def test_spelling_a_default_out_changes_no_key() -> None:
    spelt = changed("training/temperature", 1.0)
    for config in (parse_config(VALID), parse_config(spelt)):
        run = run_table(config)[0]
        assert train_settings(config, run) == train_settings(parse_config(VALID), run)
        assert train_settings(config, run).key == train_settings(parse_config(VALID), run).key


def test_data_of_both_roles_come_from_their_own_table() -> None:
    settings = changed("benchmarks/one", PROBLEMS | {"problems": 5})
    settings["datasets"]["one"] = PROBLEMS | {"problems": 7}
    config = parse_config(settings)
    assert data_settings(config, "test", "one").problems.problems == 5
    assert data_settings(config, "train", "one").problems.problems == 7


def test_evaluation_gets_the_training_dtype() -> None:
    config = parse_config(changed("training/dtype", "bfloat16"))
    assert evaluate_settings(config, "tiny", None, ("one",)).dtype == "bfloat16"


# --- config and core agree (neither imports the other)


def test_corrections_and_their_parameters_are_those_of_the_core() -> None:
    assert set(CORRECTIONS) == set(PARAMETERS)
    assert {name: set(keys) for name, keys in CORRECTION_PARAMETERS.items()} == {
        name: set(defaults) for name, defaults in PARAMETERS.items()
    }


def test_correction_params_has_a_field_for_each_parameter_and_no_other() -> None:
    fields = {field.alias or name for name, field in CorrectionParams.model_fields.items()}
    assert fields == {key for defaults in PARAMETERS.values() for key in defaults}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_core_s_defaults_are_within_the_config_s_ranges(name: str) -> None:
    corrections = {"base": {}, name: PARAMETERS[name]}
    assert parse_config(changed("corrections", corrections)).corrections[name].given() == PARAMETERS[name]


def test_choices_of_the_training_settings_are_those_of_the_core() -> None:
    fields = Training.model_fields
    assert get_args(fields["normalisation"].annotation) == NORMALISATIONS
    assert get_args(fields["advantage_baseline"].annotation) == BASELINES
