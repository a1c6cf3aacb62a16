"""Adapters: TRL trains them alone, and the nested view has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from tiny_trl import LAYERS, NestedConfig, config, plain_logp, trainer_of

from nested_reft.core.layers import nested_view

peft = pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[lora]'")
ADAPTER = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "up_proj"], "task_type": "CAUSAL_LM"}


def adapted(weights: dict[str, torch.Tensor] | None = None) -> Any:
    model = peft.get_peft_model(tiny_model(layers=LAYERS), peft.LoraConfig(**ADAPTER))
    if weights is not None:
        # TRL adds a frozen copy of an adapter that it was given, its reference.
        model.load_state_dict({name: tensor for name, tensor in weights.items() if ".ref." not in name})
    return model.eval()


@pytest.mark.parametrize("wrapped_before", [False, True])
def test_rollouts_are_the_adapted_model_s_without_the_layers(tmp_path: Path, wrapped_before: bool) -> None:
    args = config(tmp_path, max_steps=3, learning_rate=1.0, beta=0.01, use_bias_correction_kl=False)
    how = {"model": adapted()} if wrapped_before else {"peft_config": peft.LoraConfig(**ADAPTER)}
    trainer, recorder = trainer_of(args, NestedConfig(skip_percent=40), **how)
    trainer.train()
    assert len(trainer.batches) == 3
    for gradients in recorder.gradients:
        assert all("lora_" in name for name in gradients)
    for step, (skipped, batch) in enumerate(trainer.batches):
        assert len(skipped) == 2
        model, mask = adapted(recorder.weights[step]), batch["completion_mask"].bool()
        of_view = plain_logp(nested_view(model.get_base_model(), skipped), batch, 0.9)
        assert (of_view - batch["sampling_per_token_logps"])[mask].abs().max() < 1e-4
        without = plain_logp(nested_view(tiny_model(layers=LAYERS), skipped), batch, 0.9)
        away = (without - batch["sampling_per_token_logps"])[mask].abs().max()
        assert away < 1e-4 if step == 0 else away > 0.01  # the adapters start at 0
