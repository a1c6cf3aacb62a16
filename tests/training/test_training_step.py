"""The gradient of a batch: its micro-batches, its corrections at skip 0, and several updates on one rollout."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_training import rollout_of, step_on, tiny_policy, tiny_settings
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.core.corrections import CORRECTIONS
from nested_reft.core.loss import NORMALISATIONS
from nested_reft.core.rollout import Rollout
from nested_reft.engine.llama import why_unsupported
from nested_reft.engine.logp import enable_activation_checkpointing
from nested_reft.rollouts.policy import Policy

REWARDS = torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1]])


def gradient(
    policy: Policy, rollout: Rollout, correction: str, *, rewards: Tensor = REWARDS,
    reference: PreTrainedModel | None = None, **training: Any,
) -> tuple[float, list[Tensor], dict[str, float]]:  # fmt: skip
    """Loss, gradient and metrics of a step that neither clips the gradient nor moves the model."""
    settings = tiny_settings(correction=correction, max_grad_norm=1e9, **training)
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.0)
    metrics = step_on(policy, rollout, rewards, settings, optimizer, reference)
    return metrics["loss"], [parameter.grad.clone() for parameter in policy.model.parameters()], metrics


def largest(gradients: list[Tensor]) -> float:
    return max(gradient.abs().max().item() for gradient in gradients)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_at_skip_zero_all_corrections_are_one_and_the_same_method(normalisation: str) -> None:
    """With it, the baseline is the same whichever correction is written beside it."""
    policy = tiny_policy()
    skipped, rollout = rollout_of(policy, skip=0)
    assert skipped == ()
    _, expected, metrics = gradient(policy, rollout, "unit", normalisation=normalisation)
    assert largest(expected) > 0.01
    assert metrics["weight_max"] == pytest.approx(1, abs=1e-5)
    for correction in CORRECTIONS:
        _, actual, _ = gradient(policy, rollout, correction, normalisation=normalisation)
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * largest(expected))


def test_where_layers_are_skipped_the_corrections_differ() -> None:
    policy = tiny_policy()
    skipped, rollout = rollout_of(policy)
    assert len(skipped) == 2
    _, unit, _ = gradient(policy, rollout, "unit")
    assert gradient(policy, rollout, "is_token")[2]["weight_max"] > 1.2
    for correction in ("base", "retrace"):
        _, other, _ = gradient(policy, rollout, correction)
        assert max((one - two).abs().max().item() for one, two in zip(unit, other, strict=True)) > 0.01 * largest(unit)


@pytest.mark.parametrize("normalisation", [name for name in NORMALISATIONS if name != "bnpo"])
@pytest.mark.parametrize("correction", ["base", "retrace", "is_sequence"])
def test_micro_batches_change_neither_gradient_nor_loss(normalisation: str, correction: str) -> None:
    policy = tiny_policy()
    _, rollout = rollout_of(policy)
    loss, expected, metrics = gradient(policy, rollout, correction, normalisation=normalisation)
    assert largest(expected) > 0.01
    for size in (1, 2, 3, 4, 9):
        part_loss, actual, part_metrics = gradient(
            policy, rollout, correction, normalisation=normalisation, problems_per_micro_batch=size
        )
        assert part_loss == pytest.approx(loss, abs=1e-6)
        assert part_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-6)
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3])
def test_bnpo_is_the_mean_over_micro_batches(size: int) -> None:
    """The exception: with micro-batches of one group it is the mean of the groups' own means."""
    policy = tiny_policy()
    _, rollout = rollout_of(policy)
    _, actual, _ = gradient(policy, rollout, "unit", normalisation="bnpo", problems_per_micro_batch=size)
    starts = range(0, 4, size)
    parts = []
    for first in starts:
        last = min(first + size, 4)
        part, of_part = rollout.groups(slice(first, last)), REWARDS[first:last]
        parts.append(gradient(policy, part, "unit", rewards=of_part, normalisation="dapo")[1])
    for one, *others in zip(actual, *parts, strict=True):
        torch.testing.assert_close(one, sum(others) / len(starts), rtol=1e-5, atol=1e-6)


# --- updates


def updated(policy: Policy, rollout: Rollout, correction: str = "retrace", **training: Any) -> dict[str, float]:
    settings = tiny_settings(correction=correction, **training)
    return step_on(policy, rollout, REWARDS, settings, torch.optim.SGD(policy.model.parameters(), lr=0.5))


def test_the_diagnostics_are_those_before_the_first_update() -> None:
    policy = tiny_policy()
    _, rollout = rollout_of(policy)
    once, thrice = updated(tiny_policy(), rollout), updated(tiny_policy(), rollout, updates_per_rollout=3)
    for name in ("kl_k1", "ess", "ratio_max", "ess_sequence"):
        assert once[name] == thrice[name]
    assert once["ess"] < 1


def test_later_updates_keep_the_first_one_s_weights_and_clip_the_ratio() -> None:
    _, rollout = rollout_of(tiny_policy())
    once = updated(tiny_policy(), rollout)
    thrice = updated(tiny_policy(), rollout, updates_per_rollout=3, max_grad_norm=100.0)
    assert once["surrogate_clip_fraction"] == 0
    assert 0 < thrice["surrogate_clip_fraction"] < 1
    assert thrice["weight_mean"] == pytest.approx(once["weight_mean"], rel=1e-12)
    assert thrice["weight_max"] == pytest.approx(once["weight_max"], rel=1e-12)


@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_change_no_later_update_either(size: int) -> None:
    _, rollout = rollout_of(tiny_policy())
    whole, parts = tiny_policy(), tiny_policy()
    expected = updated(whole, rollout, updates_per_rollout=3)
    actual = updated(parts, rollout, updates_per_rollout=3, problems_per_micro_batch=size)
    assert actual["loss"] == pytest.approx(expected["loss"], abs=1e-6)
    assert actual == pytest.approx(expected, rel=1e-4, abs=1e-6)
    for one, other in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_reference_holds_the_policy_back() -> None:
    """With a large coefficient the objective is only the KL: its gradient at the reference itself is zero."""
    policy = tiny_policy()
    _, rollout = rollout_of(policy)
    equal, reference = torch.ones(4, 4), copy.deepcopy(policy.model)
    options: dict[str, Any] = {"rewards": equal, "reference": reference, "kl_coefficient": 1.0}
    _, found, metrics = gradient(policy, rollout, "unit", **options)
    assert metrics["kl_reference"] == pytest.approx(0, abs=1e-9)
    assert largest(found) < 1e-6
    loss, found, metrics = gradient(tiny_policy(seed=1), rollout, "unit", **options)
    assert metrics["kl_reference"] > 0.01
    assert loss > 0
    assert largest(found) > 0.01


@pytest.mark.parametrize("way", ["packed", "the model's own"])
def test_activation_checkpointing_gives_the_same_gradient(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    if way != "packed":
        monkeypatch.setattr("nested_reft.engine.logp.why_unsupported", lambda model: "this test wants the other way")
    _, rollout = rollout_of(policy)
    rewards = torch.eye(4)  # no group has equal rewards: every completion has a backward pass
    loss, expected, _ = gradient(policy, rollout, "base", rewards=rewards)
    calls = []
    plain = torch.nn.functional.silu
    monkeypatch.setattr(torch.nn.functional, "silu", lambda *a, **k: calls.append(1) or plain(*a, **k))
    gradient(policy, rollout, "base", rewards=rewards)
    once = len(calls)
    enable_activation_checkpointing(policy.model)
    assert why_unsupported(policy.model) is None
    again, actual, _ = gradient(policy, rollout, "base", rewards=rewards)
    assert len(calls) == 3 * once > 0
    assert again == pytest.approx(loss, abs=1e-7)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)
    assert torch.equal(rollout_of(policy)[1].tokens, rollout.tokens), "rollouts are as before"
