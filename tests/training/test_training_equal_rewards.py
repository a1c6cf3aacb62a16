"""Groups whose completions all have the same reward have no gradient: the step leaves their backward pass out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_training import rollout_of, step_on, tiny_policy, tiny_settings
from torch import Tensor

from nested_reft.core.advantages import group_advantages
from nested_reft.core.loss import NORMALISATIONS, Objective
from nested_reft.core.rollout import Rollout
from nested_reft.rollouts.policy import Policy
from nested_reft.training import accumulation
from nested_reft.training.accumulation import groups_with_gradient
from nested_reft.training.world import SINGLE_PROCESS, World

REWARDS = torch.tensor([[0.0, 0, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1]])
EQUAL = torch.zeros(4, 4)
Trained = tuple[Policy, list[dict[str, float]]]  # and the metrics of each step


@pytest.fixture
def rollout() -> Rollout:
    return rollout_of(tiny_policy())[1]


@pytest.fixture
def differentiated(rollout: Rollout, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many completions each forward pass with a graph had."""
    found: list[int] = []
    compute = accumulation.completion_logp

    def spy(model: Any, rollout: Any, temperature: float) -> Tensor:
        if torch.is_grad_enabled():
            found.append(len(rollout.tokens))
        return compute(model, rollout, temperature)

    monkeypatch.setattr(accumulation, "completion_logp", spy)
    return found


def all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it would be without leaving anything out."""
    monkeypatch.setattr(accumulation, "groups_with_gradient", lambda advantages, *rest: torch.ones(len(advantages)) > 0)


def trained(
    rollout: Rollout, rewards: list[Tensor], optimizer: str = "SGD", **training: Any
) -> tuple[Policy, list[dict[str, float]]]:
    """The policy after one step for each of some rewards, always on the same rollout."""
    policy = tiny_policy()
    settings = tiny_settings(max_grad_norm=1e9, **training)
    stepping = getattr(torch.optim, optimizer)(policy.model.parameters(), lr=0.01)
    return policy, [step_on(policy, rollout, of_step, settings, stepping) for of_step in rewards]


def assert_same(one: Trained, two: Trained) -> None:
    start = dict(tiny_policy().model.named_parameters())
    for (name, value), other in zip(one[0].model.named_parameters(), two[0].model.parameters(), strict=True):
        moved = (other - start[name]).abs().max().item()
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-4 * moved + 1e-9)
    for row, other_row in zip(one[1], two[1], strict=True):
        assert row == pytest.approx(other_row, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("size", [None, 1, 3])
def test_the_step_is_the_same_with_half_of_the_backward_passes(
    differentiated: list[int], rollout: Rollout, monkeypatch: pytest.MonkeyPatch, normalisation: str, size: int | None
) -> None:
    options = {"normalisation": normalisation, "problems_per_micro_batch": size, "updates_per_rollout": 2}
    found = trained(rollout, [REWARDS], **options)
    assert sum(differentiated) == 2 * 8
    all_groups(monkeypatch)
    expected = trained(rollout, [REWARDS], **options)
    assert sum(differentiated) == 2 * 8 + 2 * 16
    assert_same(found, expected)


def test_a_step_without_any_gradient_moves_by_momentum_all_the_same(
    differentiated: list[int], rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = trained(rollout, [REWARDS, EQUAL], optimizer="AdamW")
    assert differentiated == [8, 4]  # one group is enough for a gradient of 0
    once = trained(rollout, [REWARDS], optimizer="AdamW")
    one, two = (dict(policy.model.named_parameters()) for policy in (once[0], found[0]))
    assert all((two[name] != value).any() for name, value in one.items())
    assert found[1][1]["grad_norm"] == 0
    all_groups(monkeypatch)
    assert_same(found, trained(rollout, [REWARDS, EQUAL], optimizer="AdamW"))


def test_with_a_kl_term_every_group_has_a_gradient(differentiated: list[int], rollout: Rollout) -> None:
    policy = tiny_policy()
    reference = copy.deepcopy(policy.model)
    settings, optimizer = tiny_settings(kl_coefficient=0.1), torch.optim.SGD(policy.model.parameters(), lr=0.0)
    step_on(policy, rollout, EQUAL, settings, optimizer, reference)
    assert differentiated == [16]


def test_which_groups_have_a_gradient() -> None:
    advantages = group_advantages(REWARDS)
    plain = Objective(correction="unit")
    assert groups_with_gradient(advantages, plain, SINGLE_PROCESS).tolist() == [False, True, False, True]
    assert groups_with_gradient(group_advantages(EQUAL), plain, SINGLE_PROCESS).tolist() == [True, False, False, False]
    assert groups_with_gradient(advantages, Objective(correction="unit", kl_coefficient=0.1), SINGLE_PROCESS).all()
    assert groups_with_gradient(advantages, plain, World(rank=0, size=2)).all()
