"""Bias and variance of each gradient estimator as finite sums over every completion of a tiny policy: no sampling.

The estimator is G completions of one prompt from the behaviour policy b, rewarded, and the gradient of `policy_loss`,
the function that trains. A policy of N completions has N^G groups; b's probabilities of them weigh the sums.

The reference for the bias is grad J, J = E_pi R, times a constant that does not depend on the estimates: 1 / T_max for
dr_grpo, whose terms are divided by it; 1 / E_pi |o| for grpo and dapo, which divide by the sampled lengths and would
have grad J / |o| as their on-policy expectation if all completions were of one length. So a wrong norm of the
expectation counts as bias; `cosine` tells whether its direction is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nested_reft.config.records.exact import ExactRow
from nested_reft.core.advantages import group_advantages
from nested_reft.core.corrections import CORRECTIONS
from nested_reft.core.loss import Objective, policy_loss, token_scale
from nested_reft.evaluation.exact_policy import ExactPolicy, exact_policy, probabilities

DRAWN = "drawn"  # the layers are drawn uniformly for each batch
BATCH = 16  # problems of a batch, as in the default experiment
TABLE_SEED = 2  # of the weights; with it, leaving out a layer changes probabilities by factors of 0.2 to 7
UNBIASED = Objective(
    correction="unit", advantage_baseline="leave_one_out", advantage_std=False, normalisation="dr_grpo"
)
# Each switch away from UNBIASED on its own; GRPO's division by std comes with the mean of the whole group.
SWITCHES = (
    replace(UNBIASED, advantage_baseline="group_mean"),
    replace(UNBIASED, advantage_baseline="group_mean", advantage_std=True),
    replace(UNBIASED, normalisation="grpo"),
    replace(UNBIASED, normalisation="dapo"),
)
SWITCHED = ("unit", "is_sequence")  # the corrections that the switches are shown for


@dataclass(frozen=True)
class Moments:
    """What an estimator does on average: mean (D,), the trace of its covariance, and its greatest weight.

    second_moment: the expected sum over the group's tokens of the squared norm of each token's term.
    """

    mean: Tensor
    variance: float
    second_moment: float
    max_weight: float


def all_groups(completions: int, group_size: int) -> Tensor:
    """Every group of G of the N completions, in order and with repetition: indices (N^G, G)."""
    return torch.cartesian_prod(*[torch.arange(completions)] * group_size).reshape(-1, group_size)


def group_scale(mask: Tensor, normalisation: str, horizon: int, group_size: int) -> Tensor:
    """`token_scale` of each group of G rows as a separate batch, (B, 1), from the mask (B, T) of all groups.

    Raises ValueError for bnpo, which depends on the size of the micro-batches.
    """
    if normalisation == "bnpo":
        raise ValueError("normalisation bnpo has no scale for a single group: it depends on the micro-batches")
    # The mean over all tokens of a group is bnpo's with groups as micro-batches.
    name = "bnpo" if normalisation == "dapo" else normalisation
    return token_scale(mask, name, horizon, group_size) * (len(mask) // group_size)


def token_coefficients(
    objective: Objective, policy: ExactPolicy, behavior_logp: Tensor, rewards: Tensor, groups: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """What each token's d log pi is multiplied by in the estimate of its group (M, G, T), and the loss's metrics.

    behavior_logp: (N, T); rewards: (N,); groups: (M, G) indices of completions. The loss of a batch of all groups, each
    with its own scale, is the sum of the groups' losses: one call gives the coefficients of all of them.
    """
    rows = groups.flatten()
    mask = policy.mask[rows]
    logp = policy.logp[rows].clone().requires_grad_()
    advantages = group_advantages(
        rewards[groups], baseline=objective.advantage_baseline, scale_by_std=objective.advantage_std
    )
    loss, metrics = policy_loss(
        objective, logp, behavior_logp[rows], mask, advantages, max_new_tokens=policy.horizon,
        scale=group_scale(mask, objective.normalisation, policy.horizon, groups.shape[1]),
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(loss, logp)
    return -gradient.reshape(*groups.shape, -1), metrics


def group_estimates(coefficients: Tensor, groups: Tensor, jacobian: Tensor) -> Tensor:
    """The gradient estimate of each group (M, D): its coefficients (M, G, T) times the Jacobian (N, T, D)."""
    completions, horizon, size = jacobian.shape
    of_completion = torch.zeros(len(groups), completions, horizon, dtype=coefficients.dtype)
    for place in range(groups.shape[1]):  # a completion may be in a group more than once
        of_completion.index_put_((torch.arange(len(groups)), groups[:, place]), coefficients[:, place], accumulate=True)
    return of_completion.flatten(1) @ jacobian.reshape(completions * horizon, size)


def estimator_moments(
    objective: Objective, policy: ExactPolicy, behavior_logp: Tensor, rewards: Tensor, group_size: int
) -> Moments:
    """The moments of one estimator for one behaviour policy: behavior_logp (N, T), rewards (N,), over all N^G groups.

    Holds N^G (N T + D) numbers: meant for a few thousand groups.
    """
    groups = all_groups(len(rewards), group_size)
    coefficients, metrics = token_coefficients(objective, policy, behavior_logp, rewards, groups)
    chance = probabilities(behavior_logp)[groups].prod(dim=1)  # (M,)
    estimates = group_estimates(coefficients, groups, policy.jacobian)
    mean = chance @ estimates
    squared = policy.jacobian.square().sum(dim=-1)[groups]  # (M, G, T)
    return Moments(
        mean=mean,
        variance=(chance @ (estimates - mean).square().sum(dim=1)).item(),
        second_moment=(chance @ (coefficients.square() * squared).sum(dim=(1, 2))).item(),
        max_weight=metrics["weight_max"],
    )


def drawn_moments(draws: Sequence[Moments], problems: int) -> Moments:
    """The moments if the behaviour policy of each batch of `problems` groups is drawn uniformly, as training draws it.

    The variance is that of the batch's mean, times `problems`: comparable with a single group's. By the law of total
    variance the groups of a batch average out the variance within a draw, but not the variance between draws.
    """
    mean = torch.stack([draw.mean for draw in draws]).mean(dim=0)
    within = sum(draw.variance for draw in draws) / len(draws)
    between = sum((draw.mean - mean).square().sum().item() for draw in draws) / len(draws)
    second = sum(draw.second_moment for draw in draws) / len(draws)
    return Moments(mean, within + problems * between, second, max(draw.max_weight for draw in draws))


def reference_gradient(policy: ExactPolicy, rewards: Tensor, normalisation: str) -> Tensor:
    """The reference for the bias, (D,): grad J / T_max for dr_grpo, grad J / E_pi |o| for grpo and dapo."""
    length = policy.horizon if normalisation == "dr_grpo" else policy.mean_length
    return policy.true_gradient(rewards) / length


def bias(mean: Tensor, reference: Tensor) -> float:
    """||E - reference|| / ||reference||."""
    return float((mean - reference).norm() / reference.norm())


def cosine(mean: Tensor, reference: Tensor) -> float:
    """Of the angle between the expectation and the true gradient; 1: the expected step goes the right way."""
    return float(mean @ reference / (mean.norm() * reference.norm()))


def table_rewards(completions: int, seed: int = 0) -> Tensor:
    """Random rewards 0, 1/2 or 1 (N,): with only 0 and 1 and G below 4, the standard deviation would be a constant."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 3, (completions,), generator=generator).double() / 2


def table_objectives(largest_ratio: float) -> list[Objective]:
    """The estimators of the table; `largest_ratio`: the largest pi / b of a whole completion."""
    cap = math.floor(largest_ratio) + 1.0
    params = [(name, correction.resolve({}, own=True)) for name, correction in CORRECTIONS.items()]
    params += [("tis_sequence", {"C": cap}), ("retrace", {"lambda": 0.9})]
    objectives = [replace(UNBIASED, correction=name, params=values) for name, values in params]
    return objectives + [replace(switched, correction=name) for switched in SWITCHES for name in SWITCHED]


def exact_rows(
    *,
    seed: int = TABLE_SEED,
    vocab: int = 3,
    horizon: int = 3,
    layers: int = 5,
    border: int = 1,
    group_size: int = 2,
    problems: int = BATCH,
) -> list[ExactRow]:
    """The table: each estimator on-policy, for every draw of 1 and of 2 skipped layers, and for layers "drawn".

    variance_ratio and second_moment_ratio are to the on-policy estimator with the same switches and weight 1. Layers
    "drawn" are those of a batch of `problems` groups, which share a draw; the ratio is to such a batch on-policy.
    """
    policy = exact_policy(vocab, horizon, layers=layers, seed=seed)
    rewards = table_rewards(len(policy.tokens))
    draws = {count: policy.draws(count, border) for count in (1, 2)}
    behaviors = {draw: policy.behavior_logp(draw) for count in draws for draw in draws[count]}
    largest = max((policy.logp - behavior).sum(dim=1).max().exp().item() for behavior in behaviors.values())

    rows = []
    for objective in table_objectives(largest):
        on_objective = replace(objective, correction="unit", params={})
        on_policy = estimator_moments(on_objective, policy, policy.logp, rewards, group_size)
        reference = reference_gradient(policy, rewards, objective.normalisation)
        if objective == on_objective:
            rows.append(_row("none", 0, objective, on_policy, on_policy, reference))
        for count, chosen in draws.items():
            each = [estimator_moments(objective, policy, behaviors[draw], rewards, group_size) for draw in chosen]
            for name, moments in _named(chosen, each, problems):
                rows.append(_row(name, count, objective, moments, on_policy, reference))
    return rows


def _named(draws: list[tuple[int, ...]], moments: list[Moments], problems: int) -> Iterator[tuple[str, Moments]]:
    for draw, of_draw in zip(draws, moments, strict=True):
        yield " ".join(map(str, draw)), of_draw
    yield DRAWN, drawn_moments(moments, problems)


def _row(
    skipped: str, count: int, objective: Objective, moments: Moments, on_policy: Moments, reference: Tensor
) -> ExactRow:
    return ExactRow(
        skipped=skipped,
        num_skipped=count,
        correction=objective.correction,
        params=" ".join(f"{name}={value:g}" for name, value in objective.params.items()),
        baseline=objective.advantage_baseline,
        std=objective.advantage_std,
        normalisation=objective.normalisation,
        bias=bias(moments.mean, reference),
        cosine=cosine(moments.mean, reference),
        variance_ratio=moments.variance / on_policy.variance,
        second_moment_ratio=moments.second_moment / on_policy.second_moment,
        max_weight=moments.max_weight,
    )
