"""Each row of the table of corrections by hand-worked numbers, its gradient, its errors, and what always holds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nested_reft.core.corrections import CORRECTIONS, importance_weights, log_ratio

RHO = [[0.5, 2.0, 1.5], [0.8, 4.0, 7.0]]  # products of the valid ones: 1.5 and 3.2
MASK = torch.tensor([[True, True, True], [True, True, False]])
LOGP_B = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -0.1, -1.0]], dtype=torch.float64)
LOGP = LOGP_B + torch.tensor(RHO, dtype=torch.float64).log()

# name, parameters, advantages, weights
TABLE = [
    ("base", {}, None, [[0.8, 1.2, 1.2], [0.8, 1.2, 0]]),
    ("base", {"clip_low": 0.4, "clip_high": 0.7}, None, [[0.6, 1.7, 1.5], [0.8, 1.7, 0]]),
    # min(rho A, clip(rho) A): with A > 0 the clip binds only above, with A < 0 only below.
    ("base", {}, [1.0, -1.0], [[0.5, 1.2, 1.2], [0.8, 4.0, 0]]),
    ("base", {"clip_low": 0.1, "clip_high": 0.6}, [-2.0, 3.0], [[0.9, 2.0, 1.5], [0.8, 1.6, 0]]),
    ("unit", {}, None, [[1, 1, 1], [1, 1, 0]]),
    ("retrace", {}, None, [[0.5, 1, 1], [0.8, 1, 0]]),
    ("retrace", {"lambda": 0.9}, None, [[0.45, 0.9, 0.9], [0.72, 0.9, 0]]),
    ("retrace_trace", {}, None, [[0.5, 0.5, 0.5], [0.8, 0.8, 0]]),
    ("retrace_trace", {"lambda": 0.9}, None, [[0.45, 0.405, 0.3645], [0.72, 0.648, 0]]),
    ("is_token", {}, None, [[0.5, 2.0, 1.5], [0.8, 4.0, 0]]),
    ("is_sequence", {}, None, [[1.5, 1.5, 1.5], [3.2, 3.2, 0]]),
    ("tis_token", {}, None, [[0.5, 2.0, 1.5], [0.8, 2.0, 0]]),
    ("tis_token", {"C": 0.7}, None, [[0.5, 0.7, 0.7], [0.7, 0.7, 0]]),
    ("tis_sequence", {}, None, [[1.5, 1.5, 1.5], [2.0, 2.0, 0]]),
    ("tis_sequence", {"C": 1.1}, None, [[1.1, 1.1, 1.1], [1.1, 1.1, 0]]),
    ("mask_token", {"lo": 0.4}, None, [[0.5, 2.0, 1.5], [0.8, 4.0, 0]]),
    ("mask_token", {"lo": 0.6, "hi": 3.0}, None, [[0, 2.0, 1.5], [0.8, 0, 0]]),
    ("mask_sequence", {"lo": 0.6, "hi": 3.0}, None, [[1.5, 1.5, 1.5], [0, 0, 0]]),
    ("mask_sequence", {"lo": 2.0, "hi": 3.5}, None, [[0, 0, 0], [3.2, 3.2, 0]]),
    ("gspo", {"clip_low": 0.2, "clip_high": 0.5}, None, [[1.5 ** (1 / 3)] * 3, [1.5, 1.5, 0]]),
    ("gspo", {}, None, [[1.0004] * 3, [1.0004, 1.0004, 0]]),
    ("topr", {}, [1.0, 1.0], [[1, 1, 1], [1, 1, 0]]),
    ("topr", {}, [-1.0, -1.0], [[1, 1, 1], [1, 1, 0]]),
]


def weights_of(name: str, target: Tensor = LOGP, **options: object) -> Tensor:
    params = options.pop("params", {})
    return importance_weights(name, target, LOGP_B, MASK, **options, **params)


@pytest.mark.parametrize(("name", "params", "advantages", "expected"), TABLE)
def test_the_weights_by_hand(
    name: str, params: dict[str, float], advantages: list[float] | None, expected: list[list[float]]
) -> None:
    given_advantages = None if advantages is None else torch.tensor(advantages, dtype=torch.float64)
    weights = weights_of(name, advantages=given_advantages, params=params)
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_table_above_has_every_correction() -> None:
    assert {row[0] for row in TABLE} == set(CORRECTIONS)


def test_topr_tapers_a_bad_completion_that_the_target_has_left() -> None:
    rho = torch.tensor([[0.5, 0.8], [0.5, 0.8], [0.5, 0.8], [2.0, 3.0]], dtype=torch.float64)
    weights = importance_weights(
        "topr", rho.log(), torch.zeros_like(rho), torch.ones_like(rho), advantages=torch.tensor([-1.0, 1.0, 0.0, -1.0])
    )
    expected = torch.tensor([[0.4, 0.4], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rho", "weight"), [(0.2, 0.2), (0.9, 0.9), (0.1999, 0.0), (0.9001, 0.0)])
def test_rejection_keeps_its_bounds(rho: float, weight: float) -> None:
    """The bounds themselves are inside; a float's width above them is not asked for."""
    for name in ("mask_token", "mask_sequence"):
        target = torch.tensor([[rho]], dtype=torch.float64).log()
        weights = importance_weights(
            name, target, torch.zeros_like(target), torch.ones_like(target), lo=0.2 - 1e-12, hi=0.9 + 1e-12
        )
        assert weights.item() == pytest.approx(weight, abs=1e-12)


@pytest.mark.parametrize("name", CORRECTIONS)
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_what_stands_where_the_mask_is_false_does_not_matter(name: str, junk: float) -> None:
    advantages = torch.tensor([1.0, -1.0], dtype=torch.float64)
    spoilt = LOGP.clone()
    spoilt[1, 2] = junk
    assert torch.equal(weights_of(name, spoilt, advantages=advantages), weights_of(name, advantages=advantages))


@pytest.mark.parametrize("name", CORRECTIONS)
def test_equal_policies_have_weight_one(name: str) -> None:
    weights = importance_weights(name, LOGP, LOGP, MASK, advantages=torch.tensor([1.0, -1.0]))
    assert torch.equal(weights, MASK.double())


@pytest.mark.parametrize("name", sorted(name for name, entry in CORRECTIONS.items() if not entry.through_ratio))
def test_the_weight_is_a_constant_of_the_update(name: str) -> None:
    target = LOGP.clone().requires_grad_()
    assert not weights_of(name, target, advantages=torch.tensor([1.0, -1.0])).requires_grad


@pytest.mark.parametrize(
    ("advantages", "expected"),
    [
        # d rho / d log pi = rho where the clip does not bind, 0 where it does
        (None, [[0, 0, 0], [0.8, 0, 0]]),
        ([1.0, 1.0], [[0.5, 0, 0], [0.8, 0, 0]]),
        ([-1.0, -1.0], [[0, 2.0, 1.5], [0.8, 4.0, 0]]),
    ],
)
def test_the_gradient_of_base_flows_through_the_ratio(
    advantages: list[float] | None, expected: list[list[float]]
) -> None:
    target = LOGP.clone().requires_grad_()
    given_advantages = None if advantages is None else torch.tensor(advantages)
    weights_of("base", target, advantages=given_advantages, params={"clip_low": 0.21}).sum().backward()
    torch.testing.assert_close(target.grad, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_gradient_of_gspo_flows_through_the_sequence_ratio() -> None:
    """s = (prod rho)^(1/n); d s / d log pi_t = s / n where the clip does not bind, and 0 for the row where it does."""
    target = LOGP.clone().requires_grad_()
    weights = weights_of(
        "gspo", target, advantages=torch.tensor([1.0, -1.0]), params={"clip_low": 0.2, "clip_high": 0.1}
    )
    first, second = 1.5 ** (1 / 3), 3.2**0.5  # A > 0: clipped at 1.1; A < 0: not below
    torch.testing.assert_close(
        weights, torch.tensor([[1.1] * 3, [second, second, 0]], dtype=torch.float64), rtol=0, atol=1e-12
    )
    weights.sum().backward()
    expected = [[0, 0, 0], [second, second, 0]]  # two tokens, each with half of s
    assert first > 1.1
    torch.testing.assert_close(target.grad, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_only_base_and_gspo_go_through_a_ratio() -> None:
    assert {name: entry.clip for name, entry in CORRECTIONS.items() if entry.through_ratio} == {
        "base": "update", "gspo": "own",
    }  # fmt: skip


def test_the_behaviour_policy_gets_no_gradient_where_the_weight_is_detached() -> None:
    behavior = LOGP_B.clone().requires_grad_()
    assert not importance_weights("is_token", LOGP, behavior, MASK).requires_grad


# --- errors


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("bace", {}, "unknown correction 'bace'; possible: base, unit, retrace"),
        ("unit", {"lambda": 1.0}, "correction 'unit' has no parameter 'lambda'; it has: none"),
        ("tis_token", {"clip_low": 0.1}, "correction 'tis_token' has no parameter 'clip_low'; it has: C"),
        ("retrace", {"lambda": 0.0}, r"correction 'retrace': lambda must be in \(0, 1\], got 0.0"),
        ("retrace", {"lambda": 1.1}, r"lambda must be in \(0, 1\], got 1.1"),
        ("retrace", {"lambda": math.nan}, r"lambda must be in \(0, 1\], got nan"),
        ("tis_token", {"C": 0.0}, "C must be above 0, got 0.0"),
        ("mask_token", {"lo": -0.1}, "lo must be 0 or above, got -0.1"),
        ("mask_token", {"hi": 0.0}, "hi must be above 0, got 0.0"),
        ("mask_sequence", {"lo": 6.0}, "correction 'mask_sequence': lo 6.0 is above hi 5.0"),
        ("base", {"clip_low": 1.0}, r"clip_low must be in \(0, 1\), got 1.0"),
        ("gspo", {"clip_high": 0.0}, "clip_high must be above 0, got 0.0"),
    ],
)
def test_wrong_parameters_are_named(name: str, params: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weights_of(name, params=params)


def test_topr_needs_advantages() -> None:
    with pytest.raises(ValueError, match="correction 'topr' needs advantages"):
        weights_of("topr")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logp_target": LOGP[0]}, r"logp_target must be \(B, T\), got \(3,\)"),
        ({"logp_behavior": LOGP_B[:, :2]}, r"logp_behavior is \(2, 2\), but logp_target is \(2, 3\)"),
        ({"mask": MASK[:1]}, r"mask is \(1, 3\), but logp_target is \(2, 3\)"),
        ({"mask": torch.zeros_like(MASK)}, "mask has no valid token"),
        ({"logp_target": LOGP - math.inf}, "logp_target has a valid token whose log-probability is not finite"),
        ({"logp_behavior": LOGP_B * math.nan}, "logp_behavior has a valid token whose log-probability is not finite"),
        ({"advantages": torch.ones(3)}, r"advantages is \(3,\), but must be \(2,\)"),
        ({"advantages": torch.ones(2, 1)}, r"advantages is \(2, 1\), but must be \(2,\)"),
    ],
)
def test_wrong_tensors_are_named(change: dict[str, Tensor], message: str) -> None:
    arguments = {"logp_target": LOGP, "logp_behavior": LOGP_B, "mask": MASK} | change
    with pytest.raises(ValueError, match=message):
        importance_weights("is_token", **arguments)


# --- what holds for all numbers

logps = st.floats(-8, -0.01)
rows = st.integers(1, 5).flatmap(
    lambda length: st.lists(
        st.tuples(
            st.lists(logps, min_size=length, max_size=length),
            st.lists(logps, min_size=length, max_size=length),
            st.integers(1, length),
            st.sampled_from([-1.5, -0.2, 0.0, 0.7]),
        ),
        min_size=1,
        max_size=3,
    )
)
Rows = list[tuple[list[float], list[float], int, float]]


def tensors(batch: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    target, behavior, lengths, advantages = (list(part) for part in zip(*batch, strict=True))
    mask = torch.arange(len(target[0])) < torch.tensor(lengths).unsqueeze(1)
    as_tensor = [torch.tensor(part, dtype=torch.float64) for part in (target, behavior, advantages)]
    return as_tensor[0], as_tensor[1], mask, as_tensor[2]


@given(batch=rows, name=st.sampled_from(sorted(CORRECTIONS)))
def test_weights_are_finite_not_negative_and_zero_outside_the_mask(batch: Rows, name: str) -> None:
    target, behavior, mask, advantages = tensors(batch)
    weights = importance_weights(name, target, behavior, mask, advantages=advantages)
    assert weights.shape == mask.shape
    assert torch.isfinite(weights).all()
    assert (weights >= 0).all()
    assert (weights[~mask] == 0).all()


@given(batch=rows, lam=st.floats(0.1, 1), cap=st.floats(0.1, 5), low=st.floats(0.01, 0.9), high=st.floats(0.01, 3))
def test_bounds(batch: Rows, lam: float, cap: float, low: float, high: float) -> None:
    target, behavior, mask, advantages = tensors(batch)
    pair = (target, behavior, mask)
    retrace = importance_weights("retrace", *pair, **{"lambda": lam})
    trace = importance_weights("retrace_trace", *pair, **{"lambda": lam})
    assert (retrace <= lam + 1e-12).all()
    assert (trace <= retrace + 1e-12).all()
    falls = trace[:, 1:] <= lam * trace[:, :-1] + 1e-12
    assert falls.all()
    for level in ("token", "sequence"):
        full = importance_weights(f"is_{level}", *pair)
        truncated = importance_weights(f"tis_{level}", *pair, C=cap)
        assert torch.equal(truncated, full.clamp_max(cap))
        kept = importance_weights(f"mask_{level}", *pair, lo=low, hi=low + high)
        assert ((kept == 0) | ((kept == full) & (kept >= low) & (kept <= low + high))).all()
    for name in ("base", "gspo"):
        clipped = importance_weights(name, *pair, clip_low=low, clip_high=high)[mask]
        assert (clipped >= 1 - low).all()
        assert (clipped <= 1 + high).all()
    assert (importance_weights("topr", *pair, advantages=advantages) <= 1).all()


@given(batch=rows, low=st.floats(0.05, 0.9), high=st.floats(0.05, 2))
def test_base_is_the_minimum_of_both_objectives(batch: Rows, low: float, high: float) -> None:
    target, behavior, mask, advantages = tensors(batch)
    rho, column = log_ratio(target, behavior, mask).exp(), advantages.unsqueeze(1)
    expected = torch.minimum(rho * column, rho.clamp(1 - low, 1 + high) * column)
    weights = importance_weights("base", target, behavior, mask, advantages=advantages, clip_low=low, clip_high=high)
    torch.testing.assert_close((weights * column)[mask], expected[mask], rtol=0, atol=1e-12)


@given(batch=rows)
def test_the_sequence_product_is_exact_in_log_space(batch: Rows) -> None:
    target, behavior, mask, _ = tensors(batch)
    weights = importance_weights("is_sequence", target, behavior, mask)
    for row, (one, other, length, _) in enumerate(batch):
        expected = math.exp(sum(one[:length]) - sum(other[:length]))
        assert weights[row, 0].item() == pytest.approx(expected, rel=1e-9)
