"""Training and evaluation with vLLM as the rollout engine, on a stand-in for the package (`fake_engine.py`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_engine
import pytest
import torch
from fake_engine import making
from tiny_training import PROMPT, grade_by_checksum, tiny_policy, tiny_problems, tiny_settings

from nested_reft.config.evaluation import EvaluateSettings
from nested_reft.config.rollout_engine import Vllm
from nested_reft.evaluation.evaluate import evaluate
from nested_reft.rollouts import rewards
from nested_reft.rollouts.policy import Policy, save_policy
from nested_reft.rollouts.samplers import Sampler, TorchSampler
from nested_reft.training.run import train
from nested_reft.training.stopping import StoppedError


@pytest.fixture(autouse=True)
def graded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "grade", grade_by_checksum)
    monkeypatch.setattr("nested_reft.evaluation.evaluate.grade", grade_by_checksum)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the policy that is loaded, as vLLM reads it."""
    save_policy(tiny_policy(), tmp_path / "policy")
    return tmp_path / "policy"


def run(
    tmp_path: Path, make: Callable[[Policy], Sampler], name: str, stop_after: int = 99, **settings: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    policy, seen = tiny_policy(), []
    state = train(
        tiny_settings(**settings), policy, tiny_problems(), tmp_path / name, lambda row, left: seen.append(row),
        lambda text: None, lambda: len(seen) >= stop_after, make_engine=make,
    )  # fmt: skip
    return policy.model.state_dict(), state.metrics


@pytest.mark.parametrize("sleep", [False, True])
def test_each_step_has_the_layers_drawn_for_it_and_the_weights_of_the_update_before(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, sleep: bool
) -> None:
    fake_engine.install(monkeypatch)
    _, metrics = run(tmp_path, making(folder, Vllm(sleep=sleep)), "run", learning_rate=0.03)
    _, of_torch = run(tmp_path, TorchSampler, "torch", learning_rate=0.03)
    drawn = [tuple(row["skipped_layers"]) for row in metrics]
    assert drawn == [tuple(row["skipped_layers"]) for row in of_torch]
    assert len(set(drawn)) > 1
    calls = [call for call in fake_engine.made[0].calls if call[0] not in ("sleep", "wake")]
    assert calls == [
        ("nest", ()),
        *[c for layers in drawn for c in ("load", ("nest", layers), ("generate", 3))],
        "load",
    ]
    # b is the nested target: at skip 0 it is the target, and the ratio 1, which old weights would not give.
    _, on_policy = run(tmp_path, making(folder), "baseline", skip=0, learning_rate=0.03)
    assert all(row["ess"] > 1 - 1e-9 and abs(row["kl_k1"]) < 1e-6 for row in on_policy)
    assert all(row["ess"] < 0.99 for row in metrics)
    assert any(row["grad_norm"] for row in on_policy)


def test_a_stopped_run_goes_on_bit_by_bit_with_the_weights_of_its_checkpoint(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_engine.install(monkeypatch)
    weights, metrics = run(tmp_path, making(folder), "whole")
    with pytest.raises(StoppedError):
        run(tmp_path, making(folder), "parts", stop_after=3)
    again, rest = run(tmp_path, making(folder), "parts")
    assert [row["loss"] for row in rest] == [row["loss"] for row in metrics]
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_adapters_are_handed_over_as_a_part_of_the_weights(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[lora]'")
    fake_engine.install(monkeypatch)
    _, metrics = run(tmp_path, making(folder), "lora", skip=0, learning_rate=0.03, lora={"rank": 4, "alpha": 8})
    assert any(row["grad_norm"] for row in metrics)
    assert all(abs(row["kl_k1"]) < 1e-6 for row in metrics)


def test_an_evaluation_gives_vllm_a_whole_benchmark_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_engine.install(monkeypatch)
    settings = EvaluateSettings.model_validate(
        {
            "size": "tiny", "run": None, "benchmarks": ["one"], "prompt": PROMPT, "dtype": "float32", "device": "cpu",
            "evaluation": {"samples_per_problem": 2, "max_new_tokens": 5, "batch_problems": 4},
        }
    )  # fmt: skip
    engine, problems = making(folder)(tiny_policy()), tiny_problems()
    record = evaluate(settings, engine, "one", problems)
    of_torch = evaluate(settings, TorchSampler(engine.policy), "one", problems)
    assert fake_engine.made[0].calls[1:] == [("nest", ()), ("generate", 10)] * 2
    assert [item["greedy"] for item in record["items"]] == [item["greedy"] for item in of_torch["items"]]
    assert [(item["id"], len(item["sampled"])) for item in record["items"]] == [(p.id, 2) for p in problems]
    assert record["rollout_engine"] == f"vllm {fake_engine.VERSION}"
    assert of_torch["rollout_engine"] == "torch"
    alone = evaluate(settings, engine, "one", problems[:1])
    assert alone["items"] == record["items"][:1]
