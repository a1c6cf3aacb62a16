"""Training and evaluation with vLLM as the sampler, on a fake of the package (`fake_engine.py`)."""

from __future__ import annotations

from pathlib import Path

import fake_engine
import pytest
from fake_engine import making
from tiny_training import PROMPT, assert_resumes, grade_by_checksum, run, tiny_policy, tiny_problems, tiny_settings

from nested_reft.config.evaluation import EvaluateSettings
from nested_reft.config.rollout_engine import Vllm
from nested_reft.evaluation.evaluate import evaluate
from nested_reft.rollouts.policy import save_policy
from nested_reft.rollouts.samplers import TorchSampler


@pytest.fixture(autouse=True)
def graded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nested_reft.evaluation.evaluate.grade", grade_by_checksum)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the policy that is loaded, as vLLM reads it."""
    save_policy(tiny_policy(), tmp_path / "policy")
    return tmp_path / "policy"


@pytest.mark.parametrize("sleep", [False, True])
def test_each_step_has_the_layers_drawn_for_it_and_the_weights_of_the_update_before(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, sleep: bool
) -> None:
    fake_engine.install(monkeypatch)
    settings = tiny_settings(learning_rate=0.03)
    metrics = run(tmp_path / "run", settings, make_sampler=making(folder, Vllm(sleep=sleep))).rows
    of_torch = run(tmp_path / "torch", settings).rows
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
    settings = tiny_settings(skip=0, learning_rate=0.03)
    on_policy = run(tmp_path / "baseline", settings, make_sampler=making(folder)).rows
    assert all(row["ess"] > 1 - 1e-9 and abs(row["kl_k1"]) < 1e-6 for row in on_policy)
    assert all(row["ess"] < 0.99 for row in metrics)
    assert any(row["grad_norm"] for row in on_policy)


def test_a_stopped_run_goes_on_bit_by_bit_with_the_weights_of_its_checkpoint(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_engine.install(monkeypatch)
    assert_resumes(tmp_path, tiny_settings(), options=lambda: {"make_sampler": making(folder)}, stops_after=3)


def test_adapters_are_handed_over_as_a_part_of_the_weights(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[lora]'")
    fake_engine.install(monkeypatch)
    settings = tiny_settings(skip=0, learning_rate=0.03, lora={"rank": 4, "alpha": 8})
    rows = run(tmp_path, settings, make_sampler=making(folder)).rows
    assert any(row["grad_norm"] for row in rows)
    assert all(abs(row["kl_k1"]) < 1e-6 for row in rows)


def test_an_evaluation_gives_vllm_a_whole_benchmark_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_engine.install(monkeypatch)
    settings = EvaluateSettings.model_validate(
        {
            "size": "tiny", "run": None, "benchmarks": ["one"], "prompt": PROMPT, "dtype": "float32", "device": "cpu",
            "evaluation": {"samples_per_problem": 2, "max_new_tokens": 5, "batch_problems": 4},
        }
    )  # fmt: skip
    sampler, problems = making(folder)(tiny_policy()), tiny_problems()
    record = evaluate(settings, sampler, "one", problems)
    of_torch = evaluate(settings, TorchSampler(sampler.policy), "one", problems)
    assert fake_engine.made[0].calls[1:] == [("nest", ()), ("generate", 10)] * 2
    assert [item.greedy for item in record.items] == [item.greedy for item in of_torch.items]
    assert [(item.id, len(item.sampled)) for item in record.items] == [(p.id, 2) for p in problems]
    assert record.rollout_engine == f"vllm {fake_engine.VERSION}"
    assert of_torch.rollout_engine == "torch"
    alone = evaluate(settings, sampler, "one", problems[:1])
    assert alone.items == record.items[:1]
