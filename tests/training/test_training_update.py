"""The gradient of a batch: its micro-batches, its corrections at skip 0, and several updates on one rollout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_training import rollout_of, tiny_policy, tiny_settings
from torch import Tensor

from nested_reft.config import Training
from nested_reft.core.corrections import PARAMETERS
from nested_reft.core.logprobs import completion_logp, recompute_activations
from nested_reft.core.loss import NORMALISATIONS, Objective
from nested_reft.core.packed import unsupported
from nested_reft.core.rollout import Rollout
from nested_reft.tasks.policy import Policy
from nested_reft.training.update import (
    Update,
    accumulate_gradient,
    make_objective,
    update_policy,
)

REWARDS = torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1]])


def objective_of(correction: str, training: Training) -> Objective:
    settings = tiny_settings(correction=correction)
    return make_objective(settings.run, settings.params, training)


def gradient(
    policy: Policy, rollout: Rollout, correction: str, **training: Any
) -> tuple[float, list[Tensor], dict[str, float]]:
    settings = tiny_settings(**training).training
    policy.model.zero_grad(set_to_none=True)
    loss, _, metrics = accumulate_gradient(policy.model, rollout, REWARDS, settings, objective_of(correction, settings))
    return loss, [parameter.grad.clone() for parameter in policy.model.parameters()], metrics


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
    for correction in PARAMETERS:
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
        settings, last = tiny_settings(normalisation="dapo").training, min(first + size, 4)
        policy.model.zero_grad(set_to_none=True)
        objective = objective_of("unit", settings)
        accumulate_gradient(policy.model, rollout.groups(first, last), REWARDS[first:last], settings, objective)
        parts.append([parameter.grad.clone() for parameter in policy.model.parameters()])
    for one, *others in zip(actual, *parts, strict=True):
        torch.testing.assert_close(one, sum(others) / len(starts), rtol=1e-5, atol=1e-6)


def test_equal_rewards_give_no_gradient() -> None:
    policy = tiny_policy()
    _, rollout = rollout_of(policy)
    settings = tiny_settings().training
    loss, _, metrics = accumulate_gradient(
        policy.model, rollout, torch.ones(4, 4), settings, objective_of("unit", settings)
    )
    assert loss == 0
    assert all((parameter.grad == 0).all() for parameter in policy.model.parameters())
    assert metrics["weight_max"] == 1


# --- updates


def updated(policy: Policy, rollout: Rollout, correction: str = "retrace", **training: Any) -> Update:
    settings = tiny_settings(**training).training
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.5)
    return update_policy(policy.model, optimizer, rollout, REWARDS, settings, objective_of(correction, settings), None)


def test_the_diagnostics_are_those_before_the_first_update() -> None:
    policy = tiny_policy()
    _, rollout = rollout_of(policy)
    once, thrice = updated(tiny_policy(), rollout), updated(tiny_policy(), rollout, updates_per_rollout=3)
    for name in ("kl_k1", "ess", "ratio_max", "ess_sequence"):
        assert once.metrics[name] == thrice.metrics[name]
    assert once.metrics["ess"] < 1


def test_later_updates_keep_the_first_one_s_weights_and_clip_the_ratio() -> None:
    _, rollout = rollout_of(tiny_policy())
    once = updated(tiny_policy(), rollout)
    thrice = updated(tiny_policy(), rollout, updates_per_rollout=3, max_grad_norm=100.0)
    assert once.metrics["surrogate_clip_fraction"] == 0
    assert 0 < thrice.metrics["surrogate_clip_fraction"] < 1
    assert thrice.metrics["weight_mean"] == pytest.approx(once.metrics["weight_mean"], rel=1e-12)
    assert thrice.metrics["weight_max"] == pytest.approx(once.metrics["weight_max"], rel=1e-12)


@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_change_no_later_update_either(size: int) -> None:
    _, rollout = rollout_of(tiny_policy())
    whole, parts = tiny_policy(), tiny_policy()
    expected = updated(whole, rollout, updates_per_rollout=3)
    actual = updated(parts, rollout, updates_per_rollout=3, problems_per_micro_batch=size)
    assert actual.loss == pytest.approx(expected.loss, abs=1e-6)
    assert actual.metrics == pytest.approx(expected.metrics, rel=1e-4, abs=1e-6)
    for one, other in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_reference_holds_the_policy_back() -> None:
    """The objective of a large coefficient is the KL alone: its gradient at the reference itself is zero."""
    policy = tiny_policy()
    _, rollout = rollout_of(policy)
    settings = tiny_settings(kl_coefficient=1.0).training
    objective = objective_of("unit", settings)
    with torch.no_grad():
        reference = completion_logp(policy.model, rollout, 1.0)
    equal = torch.ones(4, 4)
    _, _, metrics = accumulate_gradient(policy.model, rollout, equal, settings, objective, logp_reference=reference)
    assert metrics["kl_reference"] == pytest.approx(0, abs=1e-9)
    assert largest([parameter.grad for parameter in policy.model.parameters()]) < 1e-6
    moved = tiny_policy(seed=1)
    loss, _, metrics = accumulate_gradient(moved.model, rollout, equal, settings, objective, logp_reference=reference)
    assert metrics["kl_reference"] > 0.01
    assert loss > 0
    assert largest([parameter.grad for parameter in moved.model.parameters()]) > 0.01


@pytest.mark.parametrize("way", ["packed", "the model's own"])
def test_activations_computed_twice_give_the_same_gradient(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    if way != "packed":
        monkeypatch.setattr("nested_reft.core.logprobs.unsupported", lambda model: "this test wants the other way")
    _, rollout = rollout_of(policy)
    loss, expected, _ = gradient(policy, rollout, "base")
    calls = []
    plain = torch.nn.functional.silu
    monkeypatch.setattr(torch.nn.functional, "silu", lambda *a, **k: calls.append(1) or plain(*a, **k))
    gradient(policy, rollout, "base")
    once = len(calls)
    recompute_activations(policy.model)
    assert unsupported(policy.model) is None
    again, actual, _ = gradient(policy, rollout, "base")
    assert len(calls) == 3 * once > 0
    assert again == pytest.approx(loss, abs=1e-7)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)
    assert torch.equal(rollout_of(policy)[1].tokens, rollout.tokens), "rollouts are as before"
