"""Ablation influence from a model's folder to the layers of a run: its record, its file, and what a bad file says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_evaluation import PROMPT, grade_by_checksum, tiny_policy, tiny_problems
from tiny_training import tiny_settings

from nested_reft.cli import main
from nested_reft.config.ablation import InfluenceSettings
from nested_reft.config.gradients import OnPolicySettings
from nested_reft.config.records.record import RecordError
from nested_reft.data.records import DataError, write_problems
from nested_reft.engine.layer_influence import ablation_influence
from nested_reft.evaluation.ablation import measure_influence
from nested_reft.evaluation.measurement import MeasurementError
from nested_reft.rollouts import rewards
from nested_reft.rollouts.policy import save_policy
from nested_reft.rollouts.prompts import encode_prompts
from nested_reft.rollouts.stored_influence import load_influence

GRADIENTS = {
    "size": "tiny", "skip": 34, "prompt": PROMPT.model_dump(), "sampling": {}, "border": 1, "max_prompt_tokens": 64,
    "dtype": "float32", "device": "cpu", "strategy": "least", "max_new_tokens": 3, "problems_per_micro_batch": None,
    "gradient_checkpointing": False, "update_clip_low": 0.2, "update_clip_high": 0.2,
    "gradients": {"batches": 4, "problems_per_batch": 2, "completions_per_problem": 2, "corrections": {"unit": {}}},
}  # fmt: skip


def settings(problems: int = 5, **changes: Any) -> InfluenceSettings:
    fields = {"size": "tiny", "stage": "pretrained", "problems": problems, "prompt": PROMPT, "max_new_tokens": 5,
              "max_prompt_tokens": 64, "dtype": "float32", "device": "cpu"}  # fmt: skip
    return InfluenceSettings.model_validate(fields | changes)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(rewards, "grade", grade_by_checksum)
    save_policy(tiny_policy(), tmp_path / "model")
    write_problems(tmp_path / "problems.jsonl", tiny_problems(12))
    return ["--policy", str(tmp_path / "model"), "--problems", str(tmp_path / "problems.jsonl")]


def test_the_record_is_of_the_first_problems_prompts_alone() -> None:
    policy, problems = tiny_policy(), tiny_problems(12)
    prompts = encode_prompts([problem.question for problem in problems[:5]], PROMPT, policy.tokenizer, 64)
    record = measure_influence(settings(), policy, problems).model_dump()
    assert record == {
        "size": "tiny",
        "stage": "pretrained",
        "problems": 5,
        "tokens": sum(map(len, prompts)),
        "influence": ablation_influence(policy.model, *policy.batch(prompts)).tolist(),
    }
    assert len(record["influence"]) == 6
    assert min(record["influence"]) > 0
    assert measure_influence(settings(64), policy, problems).problems == 12, "all, if there are fewer"


def test_bfloat16_is_close() -> None:
    exact, rounded = (
        measure_influence(settings(dtype=dtype), tiny_policy(), tiny_problems(12)).influence
        for dtype in ("float32", "bfloat16")
    )
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.1, abs=1e-4)


def test_an_influence_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nested_reft.evaluation.ablation.ablation_influence", lambda *_: torch.tensor([0.1, math.nan]))
    with pytest.raises(MeasurementError, match=r"^influence of tiny, pretrained: .* not a finite number; set"):
        measure_influence(settings(), tiny_policy(), tiny_problems(12))


def test_a_prompt_that_is_too_long_is_named() -> None:
    with pytest.raises(DataError, match="28 tokens, more than max_prompt_tokens: 3"):
        measure_influence(settings(max_prompt_tokens=3), tiny_policy(), tiny_problems(12))


def test_the_file_decides_the_layers_of_a_run_and_of_the_gradients(inputs: list[str], tmp_path: Path) -> None:
    path = tmp_path / "influence.json"
    assert main(["influence", "--settings", settings().canonical_json(), *inputs, "--output", str(path)]) == 0
    values = json.loads(path.read_text(encoding="utf-8"))["influence"]
    least = sorted(sorted(range(1, 5), key=values.__getitem__)[:2])
    outputs = [part for name in ("checkpoints", "output", "metrics", "manifest") for part in (f"--{name}", name)]
    outputs = [part if part.startswith("--") else str(tmp_path / part) for part in outputs]
    run = ["train", "--settings", tiny_settings(strategy="least").canonical_json(), *inputs, *outputs]
    assert main([*run, "--influence", str(path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics").read_text(encoding="utf-8").splitlines()]
    assert [row["skipped_layers"] for row in rows] == [least] * 6
    on_policy = str(tmp_path / "on_policy")
    others = {key: value for key, value in GRADIENTS.items() if key in OnPolicySettings.model_fields}
    others["gradients"] = {key: value for key, value in GRADIENTS["gradients"].items() if key != "corrections"}
    first = ["on-policy-gradients", "--settings", json.dumps(others), *inputs, "--output", on_policy]
    assert main(first) == 0
    gradients = ["gradients", "--settings", json.dumps(GRADIENTS), *inputs, "--on-policy", on_policy]
    assert main([*gradients, "--output", str(tmp_path / "gradients"), "--influence", str(path)]) == 0


RECORD = {"size": "tiny", "stage": "pretrained", "problems": 1, "tokens": 9, "influence": [0.1, 0.2]}


@pytest.mark.parametrize("command", ["train", "gradients"])
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["influence.json: is missing", "nested-reft influence"]),
        ('{"influence": [0.1, NaN]}', ["influence.json: size: Field required", "delete this file"]),
        (json.dumps(RECORD), ["influence.json: has 2 layers, but the model has 6", "delete the file"]),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(
    command: str, content: str | None, parts: list[str], inputs: list[str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "influence.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    text = tiny_settings(strategy="least_half").canonical_json() if command == "train" else json.dumps(GRADIENTS)
    names = ("checkpoints", "output", "metrics", "manifest") if command == "train" else ("output", "on-policy")
    outputs = [part for name in names for part in (f"--{name}", str(tmp_path / name))]
    for option in (["--influence", str(path)], []):
        assert main([command, "--settings", text, *inputs, *outputs, *option]) == 1
        output = capsys.readouterr().out
        assert output.count("\n") == 1
        assert output.startswith(f"nested-reft {command}: error: ")
        expected = parts if option else ["needs --influence, a file that `nested-reft influence` writes"]
        assert [part for part in expected if part not in output] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Invalid JSON"),
        ("[1]", "should be an object"),
        ("{}", "size: Field required"),
        (RECORD | {"influence": [0.1, math.nan]}, "influence.1: Input should be a finite number"),
        (RECORD | {"influence": [0.1, "x"]}, "influence.1: Input should be a valid number"),
        (RECORD | {"influence": 0.1}, "influence: Input should be a valid array"),
        (RECORD | {"influence": [True, 1]}, "influence.0: Input should be a valid number"),
        (RECORD | {"influence": [0.1, 0.2, 0.3]}, "has 3 layers, but the model has 2"),
    ],
)
def test_a_damaged_file_is_named_with_the_remedy(content: str | dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "influence.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises((DataError, RecordError), match=message) as caught:
        load_influence("least", path, 2)
    assert str(caught.value).startswith(f"{path}: ")
    assert "delete th" in str(caught.value)
    assert load_influence("uniform", path, 2) is None, "it is read only for a strategy that needs it"


def test_numbers_are_read_as_they_were_written(tmp_path: Path) -> None:
    values = [math.pi, 1e-9, 3]
    (tmp_path / "influence.json").write_text(json.dumps(RECORD | {"influence": values}), encoding="utf-8")
    found = load_influence("least_half", tmp_path / "influence.json", 3)
    assert found is not None
    assert torch.equal(found, torch.tensor(values, dtype=torch.float64))
