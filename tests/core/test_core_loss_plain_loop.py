"""The objective with every switch against a plain loop over its tokens."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from nested_reft.core.advantages import group_advantages
from nested_reft.core.loss import NORMALISATIONS, Objective, policy_loss


def plain_loop(
    objective: Objective, logp: Tensor, behavior: Tensor, before: Tensor, reference: Tensor, mask: Tensor,
    rewards: Tensor, longest: int,
) -> Tensor:  # fmt: skip
    """The loss by its definition, one token at a time; autograd through scalars gives the gradient."""
    rows, group = len(mask), rewards.shape[1]
    lengths = [int(row.sum()) for row in mask]
    total = torch.zeros((), dtype=torch.float64)
    for i, length in enumerate(lengths):
        of_group = rewards[i // group].tolist()
        others = [r for g, r in enumerate(of_group) if g != i % group]
        baseline = (
            sum(others) / len(others) if objective.advantage_baseline == "leave_one_out" else sum(of_group) / group
        )
        advantage = of_group[i % group] - baseline
        if objective.advantage_std:
            mean = sum(of_group) / group
            advantage /= math.sqrt(sum((r - mean) ** 2 for r in of_group) / (group - 1)) + 1e-4
        if len(set(of_group)) == 1:
            advantage = 0.0
        scale = {"grpo": 1 / (rows * length), "dr_grpo": 1 / (rows * longest)}.get(
            objective.normalisation, 1 / sum(lengths)
        )
        for t in range(length):
            rho_before = math.exp(before[i, t].item() - behavior[i, t].item())
            if objective.correction == "base":
                ratio, weight = (logp[i, t] - behavior[i, t]).exp(), 1.0
            else:
                ratio = (logp[i, t] - before[i, t]).exp()
                product = math.exp(sum((before[i, s] - behavior[i, s]).item() for s in range(length)))
                weight = {"unit": 1.0, "retrace": min(1.0, rho_before), "is_sequence": product,
                          "tis_token": min(rho_before, 2.0)}[objective.correction]  # fmt: skip
            low, high = 0.8, 1.2
            term = weight * torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
            x = reference[i, t] - logp[i, t]
            rho = math.exp(logp[i, t].item() - behavior[i, t].item())  # the tokens are the behaviour policy's
            total = total - scale * (term - objective.kl_coefficient * rho * (x.exp() - 1 - x))
    return total


SWITCHES = list(itertools.product(NORMALISATIONS, ("group_mean", "leave_one_out"), (True, False), (0.0, 0.2)))


@pytest.mark.parametrize("correction", ["base", "unit", "retrace", "is_sequence", "tis_token"])
def test_loss_and_gradient_of_a_plain_loop_for_all_switches(correction: str) -> None:
    generator = torch.Generator().manual_seed(3)
    shape = (6, 4)
    behavior, before, moved, reference = (-torch.rand(shape, generator=generator).double() * 2 for _ in range(4))
    mask = torch.arange(4) < torch.tensor([4, 2, 3, 1, 4, 2]).unsqueeze(1)
    rewards = torch.tensor([[1.0, 0.0, 0.25], [0.5, 0.5, 0.5]], dtype=torch.float64)
    for normalisation, baseline, std, kl in SWITCHES:
        objective = Objective(correction, {}, normalisation, baseline, std, 0.2, 0.2, kl)
        gains = group_advantages(rewards, baseline=baseline, scale_by_std=std)
        actual, expected = moved.clone().requires_grad_(), moved.clone().requires_grad_()
        loss, _ = policy_loss(
            objective, actual, behavior, mask, gains, max_new_tokens=7, logp_old=before, logp_reference=reference,
        )  # fmt: skip
        loss.backward()
        looped = plain_loop(objective, expected, behavior, before, reference, mask, rewards, 7)
        looped.backward()
        assert loss.item() == pytest.approx(looped.item(), rel=1e-12, abs=1e-14)
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-12, atol=1e-14)
