"""The variance of an estimator whose layers are drawn once for each batch of problems, by finite sums."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nested_reft.evaluation.exact import (
    BATCH,
    DRAWN,
    UNBIASED,
    Moments,
    all_groups,
    drawn_moments,
    estimator_moments,
    exact_rows,
    group_estimates,
    token_coefficients,
)
from nested_reft.evaluation.exact_policy import exact_policy, probabilities

torch.set_num_threads(1)


def distribution(correction: str, horizon: int) -> tuple[list[Tensor], list[Tensor], list[Moments]]:
    """For each draw of one layer: the chance and the estimate of every group of two, and the moments of a group."""
    policy = exact_policy(3, horizon, seed=2)
    objective = replace(UNBIASED, correction=correction)
    rewards = torch.randn(len(policy.tokens), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    groups = all_groups(len(rewards), 2)
    chances, estimates, moments = [], [], []
    for draw in policy.draws(1, 1):
        behavior = policy.behavior_logp(draw)
        chances.append(probabilities(behavior)[groups].prod(dim=1))
        coefficients, _ = token_coefficients(objective, policy, behavior, rewards, groups)
        estimates.append(group_estimates(coefficients, groups, policy.jacobian))
        moments.append(estimator_moments(objective, policy, behavior, rewards, 2))
    return chances, estimates, moments


@pytest.mark.parametrize("correction", ["retrace", "is_sequence", "base"])
@pytest.mark.parametrize(("problems", "horizon"), [(1, 3), (2, 2), (3, 1)])
def test_it_is_that_of_the_mean_of_a_batch_whose_groups_share_a_draw(
    correction: str, problems: int, horizon: int
) -> None:
    """Every batch of `problems` groups, one by one: P Var[mean of the batch]."""
    chances, estimates, moments = distribution(correction, horizon)
    weight, mean_of_batch = [], []
    for chance, estimate in zip(chances, estimates, strict=True):
        for batch in itertools.product(range(len(chance)), repeat=problems):
            weight.append(chance[list(batch)].prod() / len(chances))
            mean_of_batch.append(estimate[list(batch)].mean(dim=0))
    probability, batches = torch.stack(weight), torch.stack(mean_of_batch)
    mean = probability @ batches
    variance = (probability @ (batches - mean).square().sum(dim=1)).item()
    drawn = drawn_moments(moments, problems)
    assert probability.sum().item() == pytest.approx(1)
    torch.testing.assert_close(drawn.mean, mean, rtol=0, atol=1e-13)
    assert drawn.variance == pytest.approx(problems * variance, rel=1e-9)


def test_the_share_of_the_draw_grows_with_the_batch_unless_the_estimator_is_unbiased_for_each_draw() -> None:
    for correction, grows in (("retrace", True), ("is_sequence", False)):
        _, _, moments = distribution(correction, 3)
        one, two, many = (drawn_moments(moments, problems).variance for problems in (1, 2, 16))
        assert many - one == pytest.approx(15 * (two - one), rel=1e-9, abs=1e-12)
        assert (two > 1.001 * one) == grows


def test_the_table_is_for_the_batch_that_it_names() -> None:
    """Of one skipped layer: the greater the batch, the greater the ratio to a batch on-policy; BATCH unless told."""
    key = {"skipped": DRAWN, "num_skipped": 1, "correction": "unit"}

    def ratio(rows: list[dict[str, Any]]) -> float:
        return next(
            row.variance_ratio for row in rows if key.items() <= vars(row).items()
        )  # the first: no other switch

    tables = {problems: exact_rows(horizon=2, problems=problems) for problems in (1, BATCH)}
    assert ratio(tables[BATCH]) > 1.01 * ratio(tables[1])
    assert exact_rows(horizon=2) == tables[BATCH]
