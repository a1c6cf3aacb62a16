"""The loss: the scale of each token by hand, and the objective against a plain loop over completions and tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nested_reft.core.corrections import PARAMETERS
from nested_reft.core.loss import NORMALISATIONS, policy_loss, token_scale

MASK = torch.tensor([[True, True, True], [True, False, False]])
LOGP_B = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -0.1, -1.0]], dtype=torch.float64)
RHO = torch.tensor([[0.5, 2.0, 1.1], [0.7, 4.0, 7.0]], dtype=torch.float64)
ADVANTAGES = torch.tensor([1.5, -0.5], dtype=torch.float64)


def target() -> Tensor:
    return (LOGP_B + RHO.log()).requires_grad_()


def loss_of(logp: Tensor, correction: str, normalisation: str = "grpo", **params: float) -> tuple[Tensor, dict]:
    scale = token_scale(MASK, normalisation, 10)
    return policy_loss(logp, LOGP_B, MASK, ADVANTAGES, scale, correction=correction, params=params)


@pytest.mark.parametrize(
    ("normalisation", "expected"),
    [("grpo", [1 / (2 * 3), 1 / (2 * 1)]), ("dr_grpo", [1 / (2 * 10)] * 2), ("bnpo", [1 / 4] * 2)],
)
def test_the_scale_of_each_token(normalisation: str, expected: list[float]) -> None:
    scale = token_scale(MASK, normalisation, 10)
    assert scale.shape == (2, 1)
    assert scale.flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_an_empty_completion_does_not_divide_by_zero() -> None:
    mask = torch.tensor([[True, True], [False, False]])
    assert token_scale(mask, "grpo", 10).flatten().tolist() == pytest.approx([1 / 4, 1 / 2])


def test_an_unknown_normalisation_is_refused() -> None:
    with pytest.raises(ValueError, match="normalisation must be one of grpo, dr_grpo, bnpo, got 'mean'"):
        token_scale(MASK, "mean", 10)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("correction", ["base", "unit", "retrace", "is_sequence"])
def test_loss_and_gradient_of_a_plain_loop(correction: str, normalisation: str) -> None:
    logp = target()
    loss, _ = loss_of(logp, correction, normalisation)
    loss.backward()

    lengths = [3, 1]
    expected_loss, expected_gradient = 0.0, [[0.0] * 3 for _ in lengths]
    for i, length in enumerate(lengths):
        per_token = {"grpo": 1 / (2 * length), "dr_grpo": 1 / (2 * 10), "bnpo": 1 / 4}[normalisation]
        advantage = ADVANTAGES[i].item()
        for t in range(length):
            rho = RHO[i, t].item()
            if correction == "base":
                clipped = min(max(rho, 0.8), 1.2)
                term = min(rho * advantage, clipped * advantage)
                # The gradient of rho A is rho A; the clipped objective is a constant.
                gradient = rho * advantage if rho * advantage <= clipped * advantage else 0.0
            else:
                weight = {
                    "unit": 1.0,
                    "retrace": min(1.0, rho),
                    "is_sequence": math.prod(RHO[i, :length].tolist()),
                }[correction]
                term = weight * advantage * logp[i, t].item()
                gradient = weight * advantage
            expected_loss -= per_token * term
            expected_gradient[i][t] = -per_token * gradient
    assert loss.item() == pytest.approx(expected_loss, abs=1e-7)  # the scale is float32
    torch.testing.assert_close(logp.grad, torch.tensor(expected_gradient, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_ppo_clip_stops_the_gradient_on_the_side_that_went_far_enough() -> None:
    """A > 0: rho 2 is clipped, rho 0.5 is not. A < 0: rho 0.7 is clipped; a rho above 1.2 would not be."""
    logp = target()
    loss_of(logp, "base")[0].backward()
    assert logp.grad[0].tolist() == pytest.approx([-0.5 * 1.5 / 6, 0, -1.1 * 1.5 / 6], rel=1e-6)
    assert logp.grad[1].tolist() == [0, 0, 0]
    up = target()
    policy_loss(
        up, LOGP_B, MASK, -ADVANTAGES, token_scale(MASK, "grpo", 10), correction="base", params={}
    )[0].backward()  # fmt: skip
    assert up.grad[0].tolist() == pytest.approx([0, 2.0 * 1.5 / 6, 1.1 * 1.5 / 6], rel=1e-6)
    assert up.grad[1].tolist() == pytest.approx([-0.7 * 0.5 / 2, 0, 0], rel=1e-6)


@pytest.mark.parametrize("correction", PARAMETERS)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_the_parts_of_a_batch_add_up_to_the_batch(correction: str, normalisation: str) -> None:
    scale, whole = token_scale(MASK, normalisation, 10), target()
    options = {"correction": correction, "params": {}}
    total, _ = policy_loss(whole, LOGP_B, MASK, ADVANTAGES, scale, **options)
    total.backward()
    parts, summed = target(), 0.0
    for row in ([0], [1]):
        loss, _ = policy_loss(parts[row], LOGP_B[row], MASK[row], ADVANTAGES[row], scale[row], **options)
        loss.backward()
        summed += loss.item()
    assert summed == pytest.approx(total.item(), rel=1e-12)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-12, atol=0)


@pytest.mark.parametrize("correction", PARAMETERS)
def test_where_the_policies_agree_every_correction_has_the_policy_gradient(correction: str) -> None:
    logp = LOGP_B.clone().requires_grad_()
    loss_of(logp, correction)[0].backward()
    expected = torch.tensor([[-1.5 / 6] * 3, [0.5 / 2, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(logp.grad, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("correction", PARAMETERS)
def test_what_stands_where_the_mask_is_false_reaches_neither_loss_nor_gradient(correction: str) -> None:
    clean, spoilt = target(), target().detach()
    spoilt[1, 1:] = torch.tensor([math.nan, -math.inf], dtype=torch.float64)
    spoilt.requires_grad_()
    expected, _ = loss_of(clean, correction)
    actual, _ = loss_of(spoilt, correction)
    expected.backward()
    actual.backward()
    assert actual.item() == expected.item()
    assert torch.equal(spoilt.grad, clean.grad)


def test_the_metrics_are_those_of_the_weights_in_use() -> None:
    _, metrics = loss_of(target(), "retrace")
    assert metrics["weight_mean"] == pytest.approx((0.5 + 1 + 1 + 0.7) / 4)
    assert metrics["weight_max"] == pytest.approx(1)
