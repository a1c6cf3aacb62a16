"""Adapters: a run trains only them, its nested views share them, and its final policy has them merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import DTYPES, assert_resumes, rollout_of, tiny_policy, tiny_settings

from nested_reft.config.training import Lora
from nested_reft.core.layers import nested_view
from nested_reft.engine.logp import completion_logp
from nested_reft.training.adapter import AdapterError, add_adapter
from nested_reft.training.optimizer import make_optimizer

LORA = {"rank": 4, "alpha": 8}

peft = pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[lora]'")


def adapted_policy():
    """A policy whose adapters are no longer 0, as in the middle of a run, and what peft made of its model."""
    policy = tiny_policy()
    adapter = add_adapter(policy.model, Lora(**LORA), 5)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=generator)
    return policy, adapter


def test_a_view_s_adapters_are_the_target_s_and_its_rollouts_are_the_merged_model_s() -> None:
    policy, adapter = adapted_policy()
    skipped, rollout = rollout_of(policy)
    assert len(skipped) == 2
    shared = {id(parameter) for parameter in policy.model.parameters()}
    view = nested_view(policy.model, skipped)
    assert any("lora_A" in name for name, _ in view.named_parameters())
    assert all(id(parameter) in shared for parameter in view.parameters())
    torch.testing.assert_close(completion_logp(view, rollout, 1.0), rollout.logp, rtol=0, atol=1e-5)
    before = completion_logp(policy.model, rollout, 1.0)
    assert (before - rollout.logp).abs().max() > 0.01
    adapter.merge_and_unload()
    torch.testing.assert_close(completion_logp(policy.model, rollout, 1.0), before, rtol=0, atol=1e-5)
    policy.model.requires_grad_(True)  # `rollout_of` makes a whole step
    assert torch.equal(rollout_of(policy)[1].tokens, rollout.tokens)


def test_the_optimizer_has_the_adapters_alone_and_they_get_gradients() -> None:
    policy, _ = adapted_policy()
    _, rollout = rollout_of(policy)
    completion_logp(policy.model, rollout, 1.0).sum().backward()
    names = [name for name, parameter in policy.model.named_parameters() if parameter.grad is not None]
    assert all("lora_" in name for name in names)
    assert {name.split(".")[-4] for name in names} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    optimizer = make_optimizer(policy.model, 0.003, 0.0)
    assert len(optimizer.param_groups[0]["params"]) == len(names)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_stopped_run_goes_on_bit_by_bit_and_ends_without_adapters(
    tmp_path: Path, checkpointing: bool, dtype: str
) -> None:
    settings = tiny_settings(lora=LORA, gradient_checkpointing=checkpointing, dtype=dtype, steps=4)
    others = iter(range(3))

    def options() -> dict[str, Any]:
        torch.manual_seed(next(others))  # what else the process draws must not matter
        return {}

    whole, _ = assert_resumes(tmp_path, settings, options=options, stops_after=3)
    start = dict(tiny_policy().model.named_parameters())
    assert whole.weights.keys() == start.keys()
    changed = {name for name, weight in whole.weights.items() if not torch.equal(weight, start[name])}
    assert changed
    assert all("_proj" in name for name in changed), "embedding, norms and head are frozen"


def test_without_peft_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(AdapterError, match=r"training.lora needs the package peft; run: pip install -e '.\[lora\]'"):
        add_adapter(tiny_policy().model, Lora(), 5)
