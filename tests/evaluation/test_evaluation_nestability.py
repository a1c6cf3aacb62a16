"""How far nested rollouts are from the model: the record, from a model's folder too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_evaluation import PROMPT, grade_by_checksum, tiny_policy, tiny_problems

from nested_reft.cli import main
from nested_reft.config.nestability import NestabilitySettings
from nested_reft.data.records import DataError, write_problems
from nested_reft.engine import layer_weights
from nested_reft.engine.matrices import why_no_precision
from nested_reft.evaluation import nestability
from nested_reft.evaluation.nestability import measure_nestability
from nested_reft.rollouts import rewards, samplers
from nested_reft.rollouts.policy import save_policy

INFLUENCE = torch.tensor([9.0, 3.0, 1.0, 2.0, 4.0, 9.0], dtype=torch.float64)


@pytest.fixture(autouse=True)
def graded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "grade", grade_by_checksum)


def settings(skip: int = 34, strategy: str = "uniform", border: int = 1, **changes: Any) -> NestabilitySettings:
    measurement = {"batches": 3, "problems_per_batch": 4, "completions_per_problem": 2} | changes
    fields = {
        "size": "tiny", "stage": "pretrained", "skip": skip, "strategy": strategy, "border": border,
        "nestability": measurement, "prompt": PROMPT, "sampling": {}, "max_new_tokens": 6, "max_prompt_tokens": 64,
        "dtype": "float32", "device": "cpu",
    }  # fmt: skip
    return NestabilitySettings.model_validate(fields)


def measure(of: NestabilitySettings, **model: Any) -> list[dict[str, Any]]:
    done: list[int] = []
    record = measure_nestability(of, tiny_policy(**model), tiny_problems(10), done.append, INFLUENCE).model_dump()
    assert done == [1, 2, 3]
    assert (record["strategy"], record["border"]) == (of.strategy, of.border)
    return record["batches"]  # type: ignore[no-any-return]


def test_each_way_chooses_its_layers_for_each_batch() -> None:
    found = {name: measure(settings(strategy=name)) for name in ("uniform", "least_half", "least")}
    layers = {name: [row["skipped_layers"] for row in rows] for name, rows in found.items()}
    assert layers["least"] == layers["least_half"] == [[2, 3]] * 3  # half of the four eligible layers is two
    assert all(len(drawn) == 2 and set(drawn) <= {1, 2, 3, 4} for drawn in layers["uniform"])
    assert len({tuple(drawn) for drawn in layers["uniform"]}) > 1
    # The same layers, problems and random numbers give the same rollouts.
    assert found["least"] == found["least_half"]


def test_a_border_keeps_its_layers() -> None:
    assert [row["skipped_layers"] for row in measure(settings(border=2))] == [[2, 3]] * 3


def test_precisions_are_timed_in_pairs_with_the_whole_model_in_alternating_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A clock that each rollout moves on by the number of its model's layers shows who was timed, and when."""
    now, timed, reports = [0.0], [], []
    plain = samplers.sample_completions

    def sample(model: Any, *arguments: Any, **options: Any) -> Any:
        now[0] += model.config.num_hidden_layers
        timed.append((options["weights"].precision, model.config.num_hidden_layers, options["max_new_tokens"]))
        return plain(model, *arguments, **options)

    monkeypatch.setattr(samplers, "sample_completions", sample)
    monkeypatch.setattr(nestability, "now", lambda device: now[0])
    of = settings(strategy="least", precisions=["float32"])
    found = measure_nestability(of, tiny_policy(), tiny_problems(10), reports.append, INFLUENCE)
    assert reports == [1, 2, 3, 4, 5, 6]
    assert timed[:3] == [(None, 4, 6)] * 3, "three batches, untimed"
    making, pair = [(None, 6, 1), ("float32", 6, 1)], [(None, 6, 6), ("float32", 4, 6)]
    both, reverse = [*making, *pair], [*making[::-1], *pair[::-1]]
    assert timed[3:] == [*both, *reverse, *both]
    assert list(found.behaviours) == ["float32"]
    for row, untimed in zip(found.behaviours["float32"], found.batches, strict=True):
        assert (row.seconds, row.baseline_seconds) == (4, 6)
        assert row.skipped_layers == untimed.skipped_layers
        assert (row.tokens, row.reward) == (untimed.tokens, untimed.reward), "the same precision, the same text"
        assert row.ess == pytest.approx(untimed.ess, abs=1e-4)


def test_the_whole_model_in_another_precision_is_off_policy_by_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    if why_no_precision("bfloat16", torch.device("cpu")):
        pytest.skip("this processor has no instructions for bfloat16")
    monkeypatch.setattr(layer_weights, "MIN_PACKED", 1)
    of = settings(skip=0, precisions=["bfloat16"])
    rows = measure_nestability(of, tiny_policy(), tiny_problems(10), lambda done: None).behaviours["bfloat16"]
    assert all(0 < row.kl_k3 < 0.05 and 0.9 < row.ess < 1 and not row.skipped_layers for row in rows)


def test_a_precision_that_the_processor_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(samplers.SamplerError, match="int8: this processor has no instructions for int8; take another"):
        measure_nestability(settings(precisions=["int8"]), tiny_policy(), tiny_problems(10), lambda done: None)


def test_a_rollout_without_layers_is_off_policy_and_one_with_all_is_not() -> None:
    assert all(row["kl_k3"] > 0.01 and row["ess"] < 0.999 for row in measure(settings()))
    for row in measure(settings(skip=0)):
        assert row["skipped_layers"] == []
        assert row["kl_k1"] == pytest.approx(0, abs=1e-5)
        assert (row["ess"], row["ess_sequence"]) == pytest.approx((1, 1), abs=1e-5)
        assert 0 < row["tokens"] <= 4 * 2 * 6


def test_the_same_settings_give_the_same_numbers_and_another_seed_others() -> None:
    assert measure(settings()) == measure(settings())
    assert measure(settings()) != measure(settings(seed=1))


def test_a_prompt_that_is_too_long_is_named() -> None:
    with pytest.raises(DataError, match="28 tokens, more than max_prompt_tokens: 3"):
        measure_nestability(
            settings().model_copy(update={"max_prompt_tokens": 3}), tiny_policy(), tiny_problems(12), print, INFLUENCE
        )


def test_the_command_reads_the_influence_and_writes_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_policy(tiny_policy(), tmp_path / "model")
    write_problems(tmp_path / "problems.jsonl", tiny_problems(10))
    (tmp_path / "influence.json").write_text(
        json.dumps(
            {"size": "tiny", "stage": "pretrained", "problems": 1, "tokens": 9, "influence": INFLUENCE.tolist()}
        ),
        encoding="utf-8",
    )
    of = settings(strategy="least_half")
    call = ["nestability", "--settings", of.canonical_json(), "--policy", str(tmp_path / "model"),
            "--problems", str(tmp_path / "problems.jsonl"), "--output", str(tmp_path / "record.json")]  # fmt: skip
    assert main(call) == 1
    assert "strategy 'least_half' needs --influence" in capsys.readouterr().err
    assert main([*call, "--influence", str(tmp_path / "influence.json")]) == 0
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert (record["stage"], record["skip"], record["completions"]) == ("pretrained", 34, 8)
    assert record["batches"] == measure(of)
