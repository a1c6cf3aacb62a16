"""The enumerated policy and the finite sums: that they are complete, and that they are what training computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nested_reft.core.advantages import group_advantages
from nested_reft.core.layers import nested_view
from nested_reft.core.loss import Objective, policy_loss, token_scale
from nested_reft.engine.sampling import sample_completions
from nested_reft.evaluation.exact import (
    all_groups,
    estimator_moments,
    group_estimates,
    group_scale,
    reference_gradient,
    table_rewards,
    token_coefficients,
)
from nested_reft.evaluation.exact_policy import (
    END_ID,
    PROMPT,
    enumerate_completions,
    exact_model,
    exact_policy,
    probabilities,
    token_logp,
)

torch.set_num_threads(1)

POLICY = exact_policy(seed=2)
REWARDS = table_rewards(len(POLICY.tokens))
RETRACE = Objective("retrace", advantage_baseline="leave_one_out", advantage_std=False, normalisation="dr_grpo")


def flat(parameters: list[Tensor]) -> Tensor:
    return torch.cat([parameter.flatten() for parameter in parameters])


# --- the completions


def test_the_completions_of_three_tokens_and_two_steps() -> None:
    tokens, mask = enumerate_completions(3, 2)
    assert tokens.tolist() == [[0, 0], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]]
    assert mask.tolist() == [[True, False]] + [[True, True]] * 6


@pytest.mark.parametrize(("vocab", "horizon", "count"), [(3, 1, 3), (3, 3, 15), (4, 4, 121)])
def test_the_number_of_completions_and_none_is_there_twice(vocab: int, horizon: int, count: int) -> None:
    tokens, mask = enumerate_completions(vocab, horizon)
    assert tokens.shape == mask.shape == (count, horizon)
    assert len({tuple(row[valid].tolist()) for row, valid in zip(tokens, mask, strict=True)}) == count


@pytest.mark.parametrize("end_id", [0, 2])
def test_a_completion_ends_with_its_first_end_token_or_at_the_horizon(end_id: int) -> None:
    tokens, mask = enumerate_completions(3, 3, end_id)
    for row, valid in zip(tokens, mask, strict=True):
        written = row[valid].tolist()
        assert end_id not in written[:-1]
        assert written[-1] == end_id or len(written) == 3
        assert (row[~valid] == end_id).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((3, 3, 3), "end_id must be one of the 3 tokens, got 3"), ((3, 0, 0), "horizon must be at least 1, got 0")],
)
def test_an_enumeration_that_means_nothing_raises(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        enumerate_completions(*arguments)


# --- the policy


@pytest.mark.parametrize(("vocab", "horizon"), [(3, 3), (4, 4)])
def test_the_probabilities_of_all_completions_sum_to_one_under_every_policy(vocab: int, horizon: int) -> None:
    policy = exact_policy(vocab, horizon, seed=2)
    for draw in [(), *policy.draws(1, 0), *policy.draws(2, 1), *policy.draws(4, 0)]:
        logp = policy.behavior_logp(draw)
        assert logp.dtype == torch.float64
        assert probabilities(logp).sum().item() == pytest.approx(1, abs=1e-12)


def test_leaving_out_nothing_is_the_target_and_leaving_out_a_layer_is_not() -> None:
    assert torch.equal(POLICY.behavior_logp(()), POLICY.logp)
    for draw in POLICY.draws(1, 1) + POLICY.draws(2, 1):
        ratios = (POLICY.logp - POLICY.behavior_logp(draw))[POLICY.mask].exp()
        assert ratios.min() < 0.6
        assert ratios.max() > 1.8


def test_the_draws_leave_the_border_alone() -> None:
    assert POLICY.draws(2, 1) == [(1, 2), (1, 3), (2, 3)]
    assert len(POLICY.draws(2, 0)) == 10


def test_the_jacobian_is_the_gradient_of_each_token_and_of_their_total() -> None:
    parameters = list(POLICY.model.parameters())
    logp = token_logp(POLICY.model, POLICY.tokens, POLICY.mask)
    total = flat(torch.autograd.grad(logp.sum(), parameters, retain_graph=True))
    assert total.norm() > 1
    torch.testing.assert_close(POLICY.jacobian.sum(dim=(0, 1)), total, rtol=0, atol=1e-12)
    for row, step in ((0, 0), (3, 1), (14, 2)):
        one = flat(torch.autograd.grad(logp[row, step], parameters, retain_graph=True))
        torch.testing.assert_close(POLICY.jacobian[row, step], one, rtol=0, atol=1e-13)
    assert (POLICY.jacobian[~POLICY.mask] == 0).all()


def test_the_true_gradient_is_that_of_finite_differences() -> None:
    """In a random direction; float32 anywhere would be wrong by 1e-7 / 1e-6."""
    generator = torch.Generator().manual_seed(0)
    direction = [
        torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        for parameter in POLICY.model.parameters()
    ]
    expected = []
    for step in (1e-6, -1e-6):
        moved = exact_model(3, seed=2)
        with torch.no_grad():
            for parameter, change in zip(moved.parameters(), direction, strict=True):
                parameter += step * change
            expected.append(probabilities(token_logp(moved, POLICY.tokens, POLICY.mask)) @ REWARDS)
    slope = (expected[0] - expected[1]) / 2e-6
    along = POLICY.true_gradient(REWARDS) @ flat(direction)
    assert abs(along) > 1e-3
    assert along.item() == pytest.approx(slope.item(), rel=1e-7)


@pytest.mark.parametrize(("normalisation", "by_horizon"), [("dr_grpo", True), ("grpo", False), ("dapo", False)])
def test_the_reference_is_the_true_gradient_by_the_horizon_or_by_the_mean_length(
    normalisation: str, by_horizon: bool
) -> None:
    chances = [row.sum().exp().item() for row in POLICY.logp]
    lengths = [len(row) - row[:-1].tolist().count(END_ID) for row in POLICY.tokens]  # padding follows the end token
    mean_length = sum(chance * length for chance, length in zip(chances, lengths, strict=True))
    assert 2 < mean_length < 2.5
    expected = POLICY.true_gradient(REWARDS) / (3 if by_horizon else mean_length)
    torch.testing.assert_close(reference_gradient(POLICY, REWARDS, normalisation), expected, rtol=1e-12, atol=1e-14)


# --- the sums are what training computes


@pytest.mark.parametrize("group_size", [2, 3])
def test_the_groups_are_all_that_there_are(group_size: int) -> None:
    groups = all_groups(15, group_size)
    assert groups.shape == (15**group_size, group_size)
    assert len({tuple(group) for group in groups.tolist()}) == 15**group_size


@pytest.mark.parametrize("normalisation", ["grpo", "dr_grpo", "dapo"])
def test_the_scale_of_a_group_is_that_of_a_batch_of_it_alone(normalisation: str) -> None:
    groups = all_groups(15, 2)
    mask = POLICY.mask[groups.flatten()]
    together = group_scale(mask, normalisation, 3, 2)
    alone = torch.cat([token_scale(pair, normalisation, 3) for pair in mask.split(2)])
    torch.testing.assert_close(together, alone, rtol=1e-14, atol=0)


def test_a_single_group_has_no_scale_of_micro_batches() -> None:
    with pytest.raises(ValueError, match="bnpo has no scale for a single group"):
        group_scale(POLICY.mask[:4], "bnpo", 3, 2)


@pytest.mark.parametrize(
    "objective",
    [
        RETRACE,
        Objective(),  # what GRPO is: base, group_mean, std
        Objective(correction="is_sequence", advantage_baseline="leave_one_out", normalisation="dapo"),
        Objective(correction="topr", advantage_std=False, normalisation="dr_grpo"),
    ],
    ids=lambda objective: objective.correction,
)
def test_each_estimate_is_minus_the_gradient_that_training_takes_on_that_group_alone(objective: Objective) -> None:
    behavior = POLICY.behavior_logp((1, 3))
    groups = all_groups(15, 2)
    estimates = group_estimates(token_coefficients(objective, POLICY, behavior, REWARDS, groups)[0], groups,
                                POLICY.jacobian)  # fmt: skip
    for index in (1, 38, 114, 194):
        pair = groups[index]
        assert REWARDS[pair[0]] != REWARDS[pair[1]]  # a group of equal rewards has no gradient
        logp = token_logp(POLICY.model, POLICY.tokens[pair], POLICY.mask[pair])
        advantages = group_advantages(
            REWARDS[pair].unsqueeze(0), baseline=objective.advantage_baseline, scale_by_std=objective.advantage_std
        )
        loss, _ = policy_loss(objective, logp, behavior[pair], POLICY.mask[pair], advantages, max_new_tokens=3)
        gradient = flat(torch.autograd.grad(loss, list(POLICY.model.parameters())))
        assert gradient.norm() > 1e-3
        torch.testing.assert_close(estimates[index], -gradient, rtol=1e-10, atol=1e-12)


def test_sampled_groups_agree_with_the_sums_within_four_standard_errors() -> None:
    """30 000 groups written by the sampler that training uses: completions, expectation and variance."""
    draw, count = (1, 3), 30_000
    rollout = sample_completions(
        nested_view(POLICY.model, draw), torch.tensor([PROMPT]), torch.ones(1, len(PROMPT), dtype=torch.bool),
        group_size=2 * count, max_new_tokens=3, temperature=1.0, end_ids=(END_ID,), pad_id=END_ID,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    same = (rollout.tokens.unsqueeze(1) == POLICY.tokens).all(dim=2)  # padded with the end token, each row is one
    assert (same.sum(dim=1) == 1).all()
    chosen = same.long().argmax(dim=1)

    behavior = POLICY.behavior_logp(draw)
    chance = probabilities(behavior)
    seen = torch.bincount(chosen, minlength=15).double() / len(chosen)
    assert ((seen - chance).abs() < 4 * (chance * (1 - chance) / len(chosen)).sqrt()).all()

    groups = chosen.reshape(-1, 2)
    coefficients, _ = token_coefficients(RETRACE, POLICY, behavior, REWARDS, groups)
    estimates = group_estimates(coefficients, groups, POLICY.jacobian)
    exact = estimator_moments(RETRACE, POLICY, behavior, REWARDS, 2)
    along = exact.mean / exact.mean.norm()
    for sample, expected in (
        (estimates @ along, exact.mean.norm().item()),
        ((estimates - exact.mean).square().sum(dim=1), exact.variance),
    ):
        error = (sample.std() / count**0.5).item()
        assert error < 0.02 * expected  # small enough for the agreement to mean something
        assert abs(sample.mean().item() - expected) < 4 * error
