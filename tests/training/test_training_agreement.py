"""At skip 0 every token has ratio 1, whatever the model has in training mode; or a job says in one line why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import HYBRIDS, SHAPE, tiny_model
from tiny_training import run, tiny_policy, tiny_settings
from transformers import BioGptConfig, BioGptForCausalLM, PreTrainedModel

from nested_reft.data.records import DataError
from nested_reft.rollouts.policy import Policy

TINY = tiny_policy()
TOKENS = len(TINY.tokenizer)


def policy_of(model: PreTrainedModel) -> Policy:
    return Policy(model.eval(), TINY.tokenizer, TINY.end_ids, TINY.pad_id)


def trained(folder: Path, policy: Policy, **settings: Any) -> list[dict[str, Any]]:
    return run(folder, tiny_settings(**{"steps": 3, "learning_rate": 0.01} | settings), policy=policy).rows


def made(kind: str, **changes: Any) -> PreTrainedModel:
    return tiny_model(kind, layers=6, vocab=TOKENS, max_position_embeddings=256, **changes)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=str)
@pytest.mark.parametrize(
    "model",
    [
        *(pytest.param(lambda kind=kind: made(kind), id=kind) for kind in HYBRIDS),
        pytest.param(lambda: made("qwen2", attention_dropout=0.2), id="attention dropout"),
        pytest.param(lambda: made("mixtral", router_jitter_noise=0.3), id="router jitter"),
    ],
)
def test_the_ratio_is_1_at_skip_0(tmp_path: Path, model: Any, lora: Any, checkpointing: bool) -> None:
    torch.manual_seed(0)
    rows = trained(
        tmp_path, policy_of(model()), skip=0, lora=lora, gradient_checkpointing=checkpointing
    )  # fmt: skip
    assert len(rows) == 3
    for row in rows:
        assert row["ess"] == pytest.approx(1, abs=1e-6)
        assert row["ratio_max"] == pytest.approx(1, abs=1e-4)
    assert any(row["grad_norm"] > 0 for row in rows)


@pytest.mark.parametrize("kind", HYBRIDS)
def test_a_hybrid_model_trains_on_nested_rollouts(tmp_path: Path, kind: str) -> None:
    rows = trained(tmp_path, policy_of(made(kind)), skip=34)
    assert all(len(row["skipped_layers"]) == 2 and 0.01 < row["ess"] < 0.999 for row in rows)


def layers_with_dropout() -> PreTrainedModel:
    """Its layers drop hidden states themselves, so they do wherever a layer is in training mode."""
    sizes = {key: value for key, value in SHAPE.items() if key not in ("num_key_value_heads", "head_dim")}
    sizes |= {"vocab_size": TOKENS, "max_position_embeddings": 256, "num_hidden_layers": 4}
    return BioGptForCausalLM(BioGptConfig(**sizes))


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (lambda: made("minimax"), {"skip": 0}, r"MiniMaxForCausalLM cannot be sampled token by token \(ValueError"),
        (lambda: made("bamba"), {"skip": 25}, "BambaForCausalLM has layer types computed from the layer's number"),
        (
            layers_with_dropout, {"skip": 0, "gradient_checkpointing": True},
            r"attention_probs_dropout_prob 0.1, hidden_dropout_prob 0.1: biogpt.layers.0 \(BioGptDecoderLayer\) draws "
            r"random numbers .*; use 0, or set training.gradient_checkpointing to false$",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_line_before_the_first_step(
    tmp_path: Path, model: Any, settings: dict[str, Any], message: str
) -> None:
    policy = policy_of(model())
    policy.model.name_or_path = "models/odd"
    with pytest.raises(DataError, match=f"^models/odd: {message}") as caught:
        trained(tmp_path, policy, **settings)
    assert "\n" not in str(caught.value)


def test_such_models_work_otherwise(tmp_path: Path) -> None:
    for folder, model in {"numbers": made("bamba"), "dropout": layers_with_dropout()}.items():
        rows = trained(tmp_path / folder, policy_of(model), skip=0)
        assert all(row["ess"] == pytest.approx(1, abs=1e-6) for row in rows)
