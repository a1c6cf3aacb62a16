"""What does not go with nested rollouts is one line at construction; what goes has ratios of 1 with nothing skipped."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_models import HYBRIDS, tiny_model
from tiny_trl import (
    LAYERS,
    PROMPTS,
    NestedConfig,
    NestedGRPOTrainer,
    config,
    plain_logp,
    trainer_of,
)
from torch import Tensor, nn
from transformers import PreTrainedModel

from nested_reft.core.layers import nested_view
from nested_reft.integrations.trl_model import check_log_probabilities, refuse_model

peft = pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[lora]'")
LORA = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "up_proj"], "task_type": "CAUSAL_LM"}
VIRTUAL = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
CUT = "the target would not be renormalised on the tokens that it keeps"


def other() -> None:
    """Never called."""


class NoisyLayerNorm(nn.Module):
    """Random in a way that has no setting."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * (1 + torch.rand(())) if self.training else hidden


def with_noisy_norm() -> PreTrainedModel:
    model = tiny_model("gemma2", layers=LAYERS)
    model.model.norm = NoisyLayerNorm()
    return model


def with_kernels() -> PreTrainedModel:
    model = tiny_model(layers=LAYERS)
    model._use_kernels = True  # what `from_pretrained(use_kernels=True)` leaves; the package is not needed
    return model


def setting(value: Any, reason: str, nested: NestedConfig | None = None, **more: Any) -> Any:
    """A setting of GRPOConfig that is refused: its value, the reason, and other settings that it needs."""
    return value, reason, NestedConfig() if nested is None else nested, more


GSPO = NestedConfig(correction="gspo")
SETTINGS = {
    "top_p": setting(0.9, f"{CUT}; use 1.0"),
    "top_k": setting(5, f"{CUT}; use 0"),
    "min_p": setting(0.1, f"{CUT}; use None"),
    "vllm_structured_outputs_regex": setting("a", f"{CUT}; use None", use_vllm=True),
    "repetition_penalty": setting(1.1, "the target has no such penalty; use 1.0"),
    "generation_kwargs": setting({"no_repeat_ngram_size": 2}, "they would change the sampling distribution; use None"),
    "vllm_mode": setting("server", "this trainer cannot leave out layers of a server; use 'colocate'", use_vllm=True),
    "use_transformers_continuous_batching": setting(True, "it samples from the whole model; use False"),
    "cast_lm_head_to_fp32": setting(True, "it replaces the head's forward, and the sampler would not see it"),
    "use_liger_kernel": setting(True, "it replaces the forward of modules, and no view can be made of them; use False"),
    "neftune_noise_alpha": setting(5.0, "its noise would be in every importance ratio; use None"),
    "loss_type": setting("cispo", "use one of grpo, dr_grpo, bnpo, dapo"),
    "off_policy_mask_threshold": setting(0.5, "it weighs completions by how far they are off-policy, which the correc"),
    "use_bias_correction_kl": setting(
        True, "with beta 0.1 it weighs the KL term by a ratio that is not the one to the sampler; use False, or corr",
        beta=0.1,
    ),
    "importance_sampling_level": setting("sequence", "correction 'retrace' weighs tokens; use 'token', or correction"),
    "epsilon": setting(0.1, "correction 'gspo' has its own clip; use NestedConfig(params=", GSPO),
    "epsilon_high": setting(0.3, "correction 'gspo' has its own clip; use NestedConfig(params=", GSPO),
}  # fmt: skip


def one_line(error: ValueError, start: str) -> None:
    assert str(error).startswith(start), str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_of_trl_is_refused_in_one_line(tmp_path: Path, key: str) -> None:
    value, reason, nested, more = SETTINGS[key]
    with pytest.raises(ValueError, match="does not go with nested rollouts") as caught:
        trainer_of(config(tmp_path, **{key: value}, **more), nested)
    one_line(caught.value, f"{key} {value!r} does not go with nested rollouts: {reason}")


# What documentation calls it: the arguments of the trainer, and how the message starts.
ARGUMENTS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "tools": (lambda: {"tools": [other]}, "tools does not go with nested rollouts"),
    "rollout_func": (lambda: {"rollout_func": [other]}, "rollout_func does not go with nested rollouts"),
    "environment_factory": (
        lambda: {"environment_factory": [other]}, "environment_factory does not go with nested rollouts",
    ),
    "images": (
        lambda: {"eval_dataset": Dataset.from_dict({"prompt": PROMPTS[:1], "image": [""]})},
        "eval_dataset with a column 'image' does not go with nested rollouts, which read text only",
    ),
    "use_kernels": (
        lambda: {"model": with_kernels()}, "use_kernels True does not go with nested rollouts: kernels replace",
    ),
    "PromptTuningConfig": (
        lambda: {"peft_config": peft.PromptTuningConfig(**VIRTUAL)},
        "peft_config PromptTuningConfig does not go with nested rollouts: its virtual tokens are not in the layers",
    ),
    "PrefixTuningConfig": (
        lambda: {"peft_config": peft.PrefixTuningConfig(**VIRTUAL)},
        "peft_config PrefixTuningConfig does not go with nested rollouts: its virtual tokens are not in the layers",
    ),
    "PromptEncoderConfig": (
        lambda: {"peft_config": peft.PromptEncoderConfig(**VIRTUAL, encoder_hidden_size=16)},
        "peft_config PromptEncoderConfig does not go with nested rollouts: its virtual tokens are not in the layers",
    ),
    "lora_dropout": (
        lambda: {"peft_config": peft.LoraConfig(**LORA, lora_dropout=0.05)},
        "lora_dropout 0.05: base_model.model.model.layers.0.self_attn.q_proj.lora_dropout.default (Dropout) draws",
    ),
    "attention_dropout": (
        lambda: {"model": tiny_model("qwen2", layers=LAYERS, attention_dropout=0.2)},
        "attention_dropout 0.2: model.layers.0.self_attn (Qwen2Attention) draws random numbers in training mode",
    ),
    "router_jitter_noise": (
        lambda: {"model": tiny_model("mixtral", layers=LAYERS, router_jitter_noise=0.3)},
        "router_jitter_noise 0.3: model.layers.0.mlp (MixtralSparseMoeBlock) draws random numbers in training mode",
    ),
    "module_dropout": (
        lambda: {"peft_config": peft.LoHaConfig(
            r=2, module_dropout=0.3, target_modules=["q_proj"], task_type="CAUSAL_LM"
        )},
        "module_dropout 0.3: base_model.model.model.layers.0.self_attn.q_proj (Linear) draws random numbers",
    ),
    "a module of one's own": (
        lambda: {"model": with_noisy_norm()},
        "model.norm (NoisyLayerNorm) draws random numbers in training mode, noise in every importance ratio",
    ),
    "a cache of its own": (
        lambda: {"model": tiny_model("minimax", layers=4)},
        "MiniMaxForCausalLM cannot be sampled token by token (ValueError: ",
    ),
    "layers by number": (
        lambda: {"model": tiny_model("bamba", layers=8)},
        "BambaForCausalLM has layer types computed from the layer's numb",
    ),
    "a loss that TRL cannot compute": (
        lambda: {"model": tiny_model("granitemoehybrid", layers=LAYERS)},
        "TRL cannot compute the loss of GraniteMoeHybridForCausalLM (AttributeError: 'GraniteMoeHybridConfig' object",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ARGUMENTS)
def test_an_argument_of_the_trainer_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    arguments, start = ARGUMENTS[case]
    with pytest.raises(ValueError, match=re.escape(start)) as caught:
        trainer_of(config(tmp_path), NestedConfig(), **arguments())
    one_line(caught.value, start)


def test_models_without_whole_layers_are_refused(tmp_path: Path) -> None:
    """Both need several processes; `__init__` calls what is called here."""
    trainer, _ = trainer_of(config(tmp_path), NestedConfig())
    zero = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3)))
    for name, value in {"is_fsdp_enabled": True, "accelerator": zero}.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, name, value)
            with pytest.raises(
                ValueError, match=r"^fsdp and DeepSpeed's ZeRO-3 do not go with nested rollouts: no pro"
            ):
                refuse_model(trainer)


def test_every_refusal_of_the_documentation_is_tested_and_every_setting_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/trl.md").read_text(encoding="utf-8")
    table = page.partition("## What is refused")[2].partition("\n## ")[0]
    column = " ".join(row.split("|")[1] for row in table.splitlines() if row.startswith("|"))
    named = {re.split(r"\W", name)[0] for name in re.findall(r"`([^`]+)`", column)}
    assert set(SETTINGS) <= named
    assert named - {"gspo", "strategy"} <= {*SETTINGS, *ARGUMENTS}  # a correction, and a key of NestedConfig


# TRL cannot compute that of granitemoehybrid, nested or not.
NO_AUXILIARY_LOSS = {"router_aux_loss_coef": 0.0}
GOES: dict[str, Callable[[], tuple[dict[str, Any], dict[str, Any]]]] = {
    **{kind: lambda kind=kind: (NO_AUXILIARY_LOSS, {"model": tiny_model(kind, layers=LAYERS)}) for kind in HYBRIDS},
    "LoRA": lambda: ({"learning_rate": 1.0}, {"peft_config": peft.LoraConfig(**LORA)}),
    "LoRA, its dropout disabled": lambda: (
        {"learning_rate": 1.0, "disable_dropout": True}, {"peft_config": peft.LoraConfig(**LORA, lora_dropout=0.05)},
    ),
    "LoKr, which draws numbers for a dropout of 0": lambda: (
        {"learning_rate": 1.0},
        {"peft_config": peft.LoKrConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")},
    ),
    "a trained head": lambda: (
        {}, {"model": tiny_model("llama", layers=LAYERS),
             "peft_config": peft.LoraConfig(**LORA, modules_to_save=["lm_head"])},
    ),
    "activation checkpointing": lambda: ({"gradient_checkpointing": True}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", GOES)
def test_with_nothing_skipped_every_ratio_is_1(tmp_path: Path, case: str) -> None:
    """In training mode: the sampler's log-probabilities are those of the loss, at every step."""
    changes, arguments = GOES[case]()
    trainer, recorder = trainer_of(config(tmp_path, max_steps=3, **changes), NestedConfig(skip_percent=0), **arguments)
    differences: list[Tensor] = []
    weigh = NestedGRPOTrainer._weighed_advantages

    def spy(self: Any, batch: Any, target: Tensor) -> Tensor:
        mask = batch["completion_mask"].bool()
        differences.append((target - batch["sampling_per_token_logps"])[mask].abs().max())
        return weigh(self, batch, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NestedGRPOTrainer, "_weighed_advantages", spy)
        trainer.train()
    assert len(differences) == 3
    assert max(differences) < 1e-4
    assert [row["nested/ess"] for row in recorder.logs[:3]] == pytest.approx([1.0] * 3, abs=1e-6)


@pytest.mark.parametrize("kind", HYBRIDS)
def test_a_hybrid_model_samples_from_its_view(tmp_path: Path, kind: str) -> None:
    args = config(tmp_path, max_steps=3, **NO_AUXILIARY_LOSS)
    trainer, recorder = trainer_of(args, NestedConfig(skip_percent=40), model=tiny_model(kind, layers=LAYERS))
    trainer.train()
    for (skipped, batch), weights in zip(trainer.batches, recorder.weights, strict=True):
        assert len(skipped) == 2
        model, mask = tiny_model(kind, layers=LAYERS), batch["completion_mask"].bool()
        model.load_state_dict(weights)
        with torch.no_grad():
            of_view = plain_logp(nested_view(model, skipped).eval(), batch, 0.9)
        assert (of_view - batch["sampling_per_token_logps"])[mask].abs().max() < 1e-4


def test_what_is_done_to_the_model_when_training_starts_is_checked_again(tmp_path: Path) -> None:
    """Whatever it is: here a preparation that makes the embedding noisy."""
    trainer, recorder = trainer_of(config(tmp_path), NestedConfig())
    prepare = trainer.accelerator.prepare

    def noisy(*prepared: Any) -> Any:
        if prepared[0] is trainer.model:
            trainer.model.model.embed_tokens.register_forward_hook(
                lambda module, args, output: output + torch.rand(()) if module.training else output
            )
        return prepare(*prepared)

    trainer.accelerator.prepare = noisy
    with pytest.raises(ValueError, match=r"draws random numbers in training mode"):
        trainer.train()
    assert not recorder.logs
    assert not hasattr(trainer, "batches")


def test_the_checks_leave_modes_and_random_numbers_as_they_were(tmp_path: Path) -> None:
    trainer, _ = trainer_of(config(tmp_path), NestedConfig())
    trainer.model.model.layers[1].mlp.train()
    modes, before = [module.training for module in trainer.model.modules()], torch.get_rng_state()
    check_log_probabilities(trainer)
    assert [module.training for module in trainer.model.modules()] == modes
    assert len(set(modes)) == 2
    assert torch.equal(torch.get_rng_state(), before)
