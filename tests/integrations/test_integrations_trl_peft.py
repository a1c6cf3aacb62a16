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


def test_the_kl_term_of_base_may_be_weighed_by_the_ratio_to_the_sampler(tmp_path: Path) -> None:
    """TRL's `use_bias_correction_kl`, its default: k3 to the model without adapters, times pi / b, for every token."""
    args = config(tmp_path, max_steps=2, learning_rate=1.0, beta=0.3, use_bias_correction_kl=True)
    trainer, recorder = trainer_of(args, NestedConfig(skip_percent=40, correction="base"), model=adapted())
    trainer.train()
    _, batch = trainer.batches[1]
    model, mask = adapted(recorder.weights[1]), batch["completion_mask"].bool()
    logp, b = plain_logp(model, batch, 0.9), batch["sampling_per_token_logps"]
    away = plain_logp(tiny_model(layers=LAYERS), batch, 0.9).detach() - logp
    ratio, advantages = (logp - b).exp(), batch["advantages"].unsqueeze(1)
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    per_token = 0.3 * ratio * (away.exp() - away - 1) - surrogate
    ((per_token * mask).sum(-1) / mask.sum(-1)).mean().backward()
    expected = {name: tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None}
    assert (ratio - 1)[mask].abs().max() > 0.1
    assert away[mask].abs().max() > 0.1
    for name, gradient in expected.items():
        torch.testing.assert_close(recorder.gradients[1][name], gradient, rtol=1e-3, atol=1e-5)
