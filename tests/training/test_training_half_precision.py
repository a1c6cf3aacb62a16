"""Training with matrix products in bfloat16: every forward pass has the weights of its moment, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_training import rollout_of, step_on, tiny_policy, tiny_settings
from torch import Tensor

from nested_reft.config.training import Lora
from nested_reft.core.rollout import Rollout
from nested_reft.engine.logp import completion_logp
from nested_reft.rollouts.policy import Policy, compute_dtype
from nested_reft.training import accumulation, step
from nested_reft.training.adapter import add_adapter

# The first group has no gradient: a forward pass without gradients comes before one with them.
REWARDS = torch.tensor([[1.0, 1, 1, 1], [0, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 1]])
ROUNDING = 2**-8  # of bfloat16, relative
WAYS = ("packed", "the model's own forward", "adapters")


@pytest.fixture
def make_policy(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Policy]:
    """A policy whose log-probabilities are computed in one of three ways."""

    def make(way: str) -> Policy:
        policy = tiny_policy()
        if way == "adapters":
            pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[lora]'")
            add_adapter(policy.model, Lora(rank=4), 5)
        elif way != "packed":
            monkeypatch.setattr("nested_reft.engine.logp.why_unsupported", lambda model: "wants the other way")
        return policy

    return make


def update(policy: Policy, rollout: Rollout, dtype: str, *, lr: float = 0.5, **training: Any) -> dict[str, float]:
    """The metrics of one step on a given rollout."""
    trained = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
    settings = tiny_settings(dtype=dtype, correction="unit", max_grad_norm=100.0, **training)
    return step_on(policy, rollout, REWARDS, settings, torch.optim.SGD(trained, lr=lr))


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("way", WAYS)
def test_each_update_has_the_weights_that_the_last_one_made(
    make_policy: Callable[[str], Policy], way: str, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each log pi that reaches the loss is, to the last bit, that of the model as it is then."""
    policy, (_, rollout) = make_policy(way), rollout_of(tiny_policy())
    compute, plain = accumulation.target_logp, step.policy_loss
    moved: list[float] = []

    def fresh(model: Any, part: Any, temperature: float, dtype: str) -> Tensor:
        found = compute(model, part, temperature, dtype)
        # Other groups beside a row change the blocks of its sums, so the comparison has the same groups.
        with torch.no_grad(), compute_dtype(model, dtype):
            for groups in (part.with_gradient, ~part.with_gradient):
                if groups.any():
                    rows = groups.repeat_interleave(part.rollout.group_size)
                    expected = completion_logp(model, part.rollout.groups(groups), temperature)
                    assert torch.equal(found.detach()[rows][:, : expected.shape[1]], expected)
        return found

    def spy(objective: Any, logp: Tensor, *arguments: Any, logp_old: Tensor | None, **options: Any) -> Any:
        if logp_old is not None:
            moved.append((logp.detach() - logp_old).abs().max().item())
        return plain(objective, logp, *arguments, logp_old=logp_old, **options)

    monkeypatch.setattr(step, "target_logp", fresh)
    monkeypatch.setattr(step, "policy_loss", spy)
    metrics = update(policy, rollout, "bfloat16", updates_per_rollout=3, problems_per_micro_batch=size)
    assert len(moved) == 2 * (1 if size is None else 4)
    assert min(moved) > 10 * ROUNDING
    assert metrics["surrogate_clip_fraction"] > 0, "the clip binds"


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_is_float32_s_up_to_rounding(
    make_policy: Callable[[str], Policy], way: str, size: int | None
) -> None:
    """Of every parameter: one whose cast lost its gradient would have none."""
    _, rollout = rollout_of(tiny_policy())
    found = {}
    for dtype in ("float32", "bfloat16"):
        policy = make_policy(way)
        update(policy, rollout, dtype, lr=0.0, problems_per_micro_batch=size)
        found[dtype] = {name: part.grad for name, part in policy.model.named_parameters() if part.requires_grad}
    for name, expected in found["float32"].items():
        actual = found["bfloat16"][name]
        assert actual is not None, name
        assert actual.dtype == torch.float32
        if way == "adapters" and "lora_A" in name:
            assert expected.abs().max() == 0, "the other half of a new adapter is 0"
            continue
        difference = ((actual - expected).norm() / expected.norm()).item()
        # A key's bias hardly changes attention: its gradient is a small difference of large numbers.
        assert 0 < difference < (32 if name.endswith("k_proj.bias") else 16) * ROUNDING, name
