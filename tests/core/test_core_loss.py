"""The loss: the scale of each token, gradients worked out by hand, and what holds for all corrections."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nested_reft.core.advantages import group_advantages
from nested_reft.core.corrections import CORRECTIONS
from nested_reft.core.loss import NORMALISATIONS, Objective, policy_loss, token_scale

MASK = torch.tensor([[True, True, True], [True, False, False]])
LOGP_B = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -0.1, -1.0]], dtype=torch.float64)
RHO = torch.tensor([[0.5, 2.0, 1.1], [0.7, 4.0, 7.0]], dtype=torch.float64)
REWARDS = torch.tensor([[1.5, 0.0]])  # with leave-one-out the advantages are 1.5 and -1.5
PLAIN: dict[str, Any] = {"advantage_baseline": "leave_one_out", "advantage_std": False}


def advantages(objective: Objective, rewards: Tensor = REWARDS) -> Tensor:
    return group_advantages(rewards, baseline=objective.advantage_baseline, scale_by_std=objective.advantage_std)


def target() -> Tensor:
    return (LOGP_B + RHO.log()).requires_grad_()


def loss_of(logp: Tensor, correction: str, **switches: Any) -> tuple[Tensor, dict[str, float]]:
    arguments = {key: switches.pop(key) for key in ("logp_old", "logp_reference", "scale") if key in switches}
    objective = Objective(correction=correction, **(PLAIN | switches))
    return policy_loss(objective, logp, LOGP_B, MASK, advantages(objective), max_new_tokens=10, **arguments)


# --- the scale of a token


@pytest.mark.parametrize(
    ("normalisation", "expected"),
    [("grpo", [1 / (2 * 3), 1 / (2 * 1)]), ("dr_grpo", [1 / 20] * 2), ("bnpo", [1 / 4] * 2), ("dapo", [1 / 4] * 2)],
)
def test_the_scale_of_each_token(normalisation: str, expected: list[float]) -> None:
    scale = token_scale(MASK, normalisation, 10)
    assert scale.shape == (2, 1)
    assert scale.dtype == torch.float64
    assert scale.flatten().tolist() == pytest.approx(expected, rel=1e-15)


def test_bnpo_alone_depends_on_the_micro_batch() -> None:
    """Two micro-batches of one row: means over 3 and over 1 tokens, each counting half."""
    assert token_scale(MASK, "bnpo", 10, 1).flatten().tolist() == pytest.approx([1 / (2 * 3), 1 / 2])
    for normalisation in ("grpo", "dr_grpo", "dapo"):
        assert torch.equal(token_scale(MASK, normalisation, 10, 1), token_scale(MASK, normalisation, 10))


@pytest.mark.parametrize(("normalisation", "expected"), [("grpo", [1 / 4, 1 / 2]), ("dapo", [1 / 2] * 2)])
def test_an_empty_completion_does_not_divide_by_zero(normalisation: str, expected: list[float]) -> None:
    mask = torch.tensor([[True, True], [False, False]])
    assert token_scale(mask, normalisation, 10).flatten().tolist() == pytest.approx(expected)


# --- the objective


def test_the_gradient_of_grpo_by_hand() -> None:
    """rho 0.5, 2 (clipped at 1.2, no gradient), 1.1 with A = 1.5; rho 0.7 with A = -1.5 is clipped at 0.8."""
    logp = target()
    loss, metrics = loss_of(logp, "base")
    loss.backward()
    assert loss.item() == pytest.approx(-(0.5 + 1.2 + 1.1) * 1.5 / 6 + 0.8 * 1.5 / 2)
    assert logp.grad.tolist() == [pytest.approx([-0.5 * 1.5 / 6, 0, -1.1 * 1.5 / 6]), pytest.approx([0, 0, 0])]
    assert metrics == {
        "weight_mean": pytest.approx((0.5 + 1.2 + 1.1 + 0.8) / 4),
        "weight_max": pytest.approx(1.2),
        "surrogate_clip_fraction": 0.5,
    }


def test_clip_higher_lets_more_of_a_good_token_through() -> None:
    for high, expected in [(0.2, 1.2), (0.5, 1.5), (1.5, 2.0)]:
        loss, _ = loss_of(target(), "base", update_clip_high=high)
        assert loss.item() == pytest.approx(-(0.5 + expected + 1.1) * 1.5 / 6 + 0.8 * 1.5 / 2)


def test_the_gradient_of_retrace_by_hand() -> None:
    logp = target()
    loss_of(logp, "retrace", params={"lambda": 0.9})[0].backward()
    expected = [[-0.9 * 0.5 * 1.5 / 6, -0.9 * 1.5 / 6, -0.9 * 1.5 / 6], [0.9 * 0.7 * 1.5 / 2, 0, 0]]
    torch.testing.assert_close(logp.grad, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("switches", "advantage"),
    [
        ({"advantage_baseline": "leave_one_out", "advantage_std": False}, 1.5),
        ({"advantage_baseline": "group_mean", "advantage_std": False}, 0.75),
        ({"advantage_baseline": "group_mean", "advantage_std": True}, 0.75 / (1.5 / math.sqrt(2) + 1e-4)),
        ({"advantage_baseline": "leave_one_out", "advantage_std": True}, 1.5 / (1.5 / math.sqrt(2) + 1e-4)),
    ],
)
def test_the_switches_of_the_advantage(switches: dict[str, Any], advantage: float) -> None:
    logp = target()
    loss_of(logp, "unit", **switches)[0].backward()
    assert logp.grad[0].tolist() == pytest.approx([-advantage / 6] * 3, rel=1e-6)
    assert logp.grad[1].tolist() == pytest.approx([advantage / 2, 0, 0], rel=1e-6)


def test_a_second_update_has_the_weight_of_the_first_times_the_clipped_ratio() -> None:
    """Before the update rho was 0.5, 1, 1.1 / 0.7; the update then made token 2 twice, token 4 half as likely."""
    before = LOGP_B + torch.tensor([[0.5, 1.0, 1.1], [0.7, 1, 1]], dtype=torch.float64).log()
    moved = before + torch.tensor([[1.0, 2.0, 1.1], [0.5, 1, 1]], dtype=torch.float64).log()
    logp = moved.clone().requires_grad_()
    loss, metrics = loss_of(logp, "retrace", logp_old=before)
    loss.backward()
    # weights 0.5, 1, 1, 0.7; r clipped: 1, 1.2 of 2, 1.1 for A > 0; 0.8 of 0.5 for A < 0
    assert loss.item() == pytest.approx(-(0.5 * 1 + 1 * 1.2 + 1 * 1.1) * 1.5 / 6 + 0.7 * 0.8 * 1.5 / 2)
    assert logp.grad[0].tolist() == pytest.approx([-0.5 * 1.5 / 6, 0, -1.1 * 1.5 / 6])
    assert logp.grad[1].tolist() == [0, 0, 0]
    assert metrics["weight_max"] == pytest.approx(1)
    assert metrics["surrogate_clip_fraction"] == 0.5
    higher, _ = loss_of(moved, "retrace", logp_old=before, update_clip_high=0.5)
    assert higher.item() == pytest.approx(-(0.5 * 1 + 1 * 1.5 + 1 * 1.1) * 1.5 / 6 + 0.7 * 0.8 * 1.5 / 2)


def test_base_has_its_ratio_to_the_behaviour_policy_in_every_update() -> None:
    first, later = loss_of(target(), "base"), loss_of(target(), "base", logp_old=LOGP_B - 1)
    assert first == later


def test_the_objective_of_gspo_by_hand() -> None:
    """As published, its old policy being b: the mean over completions of min(s A, clip(s) A), s = (prod rho)^(1 / |o|).

    Row 1: s = 1.1^(1/3) = 1.03228, A = 1.5, clipped at 1.02: no gradient. Row 2: s = 0.7, A = -1.5, clipped at 0.98.
    """
    options = {"params": {"clip_low": 0.02, "clip_high": 0.02}}
    logp = target()
    loss, metrics = loss_of(logp, "gspo", **options)
    loss.backward()
    assert loss.item() == pytest.approx(-(1.02 * 1.5 - 0.98 * 1.5) / 2)
    assert logp.grad.abs().max() == 0
    assert metrics["surrogate_clip_fraction"] == 1.0
    logp = target()
    loss, metrics = loss_of(logp, "gspo", params={"clip_low": 0.02, "clip_high": 0.1})
    loss.backward()
    s = 1.1 ** (1 / 3)
    assert loss.item() == pytest.approx(-(s * 1.5 - 0.98 * 1.5) / 2)
    assert logp.grad[0].tolist() == pytest.approx([-s * 1.5 / (2 * 3)] * 3)  # d s / d log pi_t = s / 3
    assert logp.grad[1].tolist() == [0, 0, 0]
    assert metrics["surrogate_clip_fraction"] == 0.25  # one token of four


def test_any_two_corrections_differ_where_their_formulas_do() -> None:
    """A batch with long and short completions, ratios near and far from 1, and advantages of both signs."""
    generator = torch.Generator().manual_seed(0)
    behavior = -torch.rand((8, 5), generator=generator).double() * 2
    logp = behavior + torch.randn((8, 5), generator=generator).double() * 0.8
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4, 5, 2, 4, 5]).unsqueeze(1)
    gains = torch.tensor([1.0, -1.0, 0.5, -0.5, -1.5, 1.5, 0.7, -0.7], dtype=torch.float64)
    gradients = {}
    for name in CORRECTIONS:
        leaf = logp.clone().requires_grad_()
        policy_loss(Objective(name), leaf, behavior, mask, gains, max_new_tokens=5)[0].backward()
        gradients[name] = leaf.grad
    for one, other in itertools.combinations(gradients, 2):
        difference = (gradients[one] - gradients[other]).norm() / gradients[one].norm()
        assert difference > 0.02, (one, other, difference)


@pytest.mark.parametrize("correction", ["base", "unit", "retrace"])
def test_the_kl_to_a_reference_is_that_under_the_target_whoever_sampled(correction: str) -> None:
    """One token of a vocabulary of three: over b's samples the mean of the term is KL(pi || reference) itself."""
    pi, b, reference = (torch.tensor(p, dtype=torch.float64).log() for p in
                        ([0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.3, 0.3, 0.4]))  # fmt: skip
    terms = []
    for token in range(3):
        _, metrics = policy_loss(
            Objective(correction, kl_coefficient=1.0), pi[token].view(1, 1), b[token].view(1, 1), torch.ones(1, 1),
            torch.zeros(1), max_new_tokens=1, logp_reference=reference[token].view(1, 1),
        )  # fmt: skip
        terms.append(metrics["kl_reference"])
    expected = (pi.exp() * (pi - reference)).sum().item()
    assert (b.exp() @ torch.tensor(terms, dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-12)


def test_the_kl_to_a_reference_by_hand() -> None:
    """pi_ref / pi is 2, 1 and 1/2, then 1: k3 is 2 - 1 - log 2, 0, 1/2 - 1 + log 2, 0; d k3 / d log pi = 1 - ratio."""
    logp = LOGP_B.clone().requires_grad_()
    ratio = torch.tensor([[2.0, 1.0, 0.5], [1.0, 9.0, 9.0]], dtype=torch.float64)
    options = {"kl_coefficient": 0.3, "logp_reference": LOGP_B + ratio.log()}
    loss, metrics = loss_of(logp, "unit", **options)
    k3 = [1 - math.log(2), 0, math.log(2) - 0.5]
    plain, _ = loss_of(LOGP_B.clone(), "unit")
    assert loss.item() == pytest.approx(plain.item() + 0.3 * sum(k3) / 6)
    assert metrics["kl_reference"] == pytest.approx(sum(k3) / 4)
    loss.backward()
    expected = [[(-1.5 + 0.3 * (1 - r)) / 6 for r in (2.0, 1.0, 0.5)], [1.5 / 2, 0, 0]]
    torch.testing.assert_close(logp.grad, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_the_parts_of_a_batch_add_up_to_the_batch(correction: str, normalisation: str) -> None:
    """Two groups with the same log-probabilities; a micro-batch is a group."""
    objective = Objective(correction, normalisation=normalisation, **PLAIN)
    mask, behavior = MASK.repeat(2, 1), LOGP_B.repeat(2, 1)
    rewards = torch.tensor([[1.5, 0.0], [0.2, 0.7]])
    scale = token_scale(mask, normalisation, 10, 2)
    whole, parts = (target().detach().repeat(2, 1).requires_grad_() for _ in range(2))
    of_batch = advantages(objective, rewards)
    total, _ = policy_loss(objective, whole, behavior, mask, of_batch, max_new_tokens=10, scale=scale)
    total.backward()
    summed = 0.0
    for p in range(2):
        rows = slice(2 * p, 2 * p + 2)
        loss, _ = policy_loss(
            objective, parts[rows], behavior[rows], mask[rows], of_batch[p], max_new_tokens=10, scale=scale[rows]
        )
        loss.backward()
        summed += loss.item()
    assert summed == pytest.approx(total.item(), rel=1e-12)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-12, atol=0)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_where_the_policies_agree_every_correction_has_the_policy_gradient(correction: str) -> None:
    logp = LOGP_B.clone().requires_grad_()
    loss_of(logp, correction)[0].backward()
    expected = torch.tensor([[-1.5 / 6] * 3, [1.5 / 2, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(logp.grad, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_what_stands_where_the_mask_is_false_reaches_neither_loss_nor_gradient(correction: str) -> None:
    options = {"kl_coefficient": 0.1, "logp_reference": LOGP_B - 0.1}
    clean, spoilt = target(), target().detach()
    spoilt[1, 1:] = torch.tensor([math.nan, -math.inf], dtype=torch.float64)
    spoilt.requires_grad_()
    expected, metrics = loss_of(clean, correction, **options)
    actual, spoilt_metrics = loss_of(spoilt, correction, **options)
    expected.backward()
    actual.backward()
    assert actual.item() == expected.item()
    assert torch.equal(spoilt.grad, clean.grad)
    assert spoilt_metrics == metrics
