"""Bias and variance of the gradient estimates problem by problem, from distinct completions with their probabilities.

Of one problem and one draw of layers, M completions are written by pi and M by the nested view b. The distinct ones
among them have known probabilities, and so a known chance of being among them, by which each is weighted (Horvitz and
Thompson 1952): the weighted sum over those that were seen is, in expectation, the sum over all completions. What was
not seen is thus not left out; that it was not seen makes noise, which is the less, the more probability was seen.

The quantity is the expectation of the leave-one-out estimate of `evaluation.gradients`. Its advantage of completion l
is, in expectation over the rest of the group, sum_k b_k (R_l - R_k). Since rewards are 0 or 1, its sign is known from
R_l alone, so this holds for the corrections that read the sign, too. The sum over pairs has weights of its own, the
chance that both are seen, so that the estimate has no bias from a baseline estimated from the same completions.

All is done twice, with pools of its own: a product of two independent estimates is, in expectation, the product of the
expectations, so that noise adds nothing to a squared norm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nested_reft.config.gradients import CompletionGradientSettings
from nested_reft.config.records.completion_gradients import CompletionGradientRecord, CompletionProblem, Expectation
from nested_reft.config.sampling import Sampling
from nested_reft.core.layers import nested_view
from nested_reft.core.loss import Objective, policy_loss
from nested_reft.core.rollout import Rollout
from nested_reft.data.records import Problem
from nested_reft.engine.logp import completion_logp, enable_activation_checkpointing
from nested_reft.evaluation.gradients import UNBIASED, choose_coordinates, gradient_at, make_objective
from nested_reft.evaluation.measurement import Batch, MeasurementError, check_finite, choose_layers, problem_batches
from nested_reft.rollouts.agreement import check_policy_skip
from nested_reft.rollouts.policy import Policy, compute_dtype
from nested_reft.rollouts.rewards import rollout_rewards
from nested_reft.rollouts.samplers import TorchSampler
from nested_reft.runtime.seeding import derive_seed

ON_POLICY = Objective(correction="unit", **UNBIASED)


@dataclass(frozen=True)
class Seen:
    """The n distinct completions of two pools of one problem; `logp` of the rollout is log b, and `rewards` (n,)."""

    rollout: Rollout
    rewards: Tensor


@dataclass(frozen=True)
class Expected:
    """What is estimated of one problem from one pair of pools; the first row of several is the on-policy one's.

    gradients: (1 + corrections, coordinates); second_moments: (1 + corrections,), empty if not asked for. covered and
    rewards: of (pi, b), the probability of what was seen, and the expected reward.
    """

    gradients: Tensor
    second_moments: Tensor
    distinct: int
    covered: Tensor
    rewards: Tensor


def distinct_completions(pools: Sequence[Rollout], pad_id: int) -> Rollout:
    """The distinct completions of pools of one prompt, in the order of their first appearance; logp is 0."""
    rows = dict.fromkeys(
        tuple(tokens[mask].tolist())
        for pool in pools
        for tokens, mask in zip(pool.tokens, pool.mask.bool(), strict=True)
    )
    longest, device = max(map(len, rows)), pools[0].tokens.device
    tokens = torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows], device=device)
    mask = torch.arange(longest, device=device) < torch.tensor([[len(row)] for row in rows], device=device)
    return Rollout(pools[0].prompt_ids, pools[0].prompt_mask, tokens, mask, torch.zeros(mask.shape, device=device))


def inclusion_chances(policies: Sequence[Tensor], draws: int) -> Tensor:
    """The chance that two completions are both among `draws` of each policy, (n, n); that one is, on the diagonal.

    policies: the probabilities (n,) of the completions under each. Neither is missed: 1 - m_k - m_l + m_kl, with m the
    chances that one, or both, are missed by all draws; written so that tiny chances keep their digits.
    """
    missed = torch.zeros_like(policies[0])
    together = torch.zeros(2 * missed.shape, dtype=missed.dtype, device=missed.device)
    for chances in policies:
        chances = chances.clamp_max(1.0)  # of which rounding may leave a little more
        missed = missed + draws * torch.log1p(-chances)
        others = torch.outer(1 - chances, 1 - chances).clamp_min(torch.finfo(chances.dtype).tiny)
        together = together + draws * torch.log1p(-(torch.outer(chances, chances) / others).clamp_max(1.0))
    single, never = -torch.expm1(missed), missed.exp()
    both = torch.outer(single, single) + torch.outer(never, never) * torch.expm1(together)
    return both.diagonal_scatter(single)


def expected_advantages(chances: Tensor, rewards: Tensor, inclusion: Tensor) -> Tensor:
    """The advantage of each of n completions, (n,): what sum_k p_k (R_l - R_k) over all completions is in expectation,
    given that l was seen. 0 if all rewards are equal.
    """
    differences = rewards.unsqueeze(1) - rewards
    return inclusion.diagonal() * (differences * chances / inclusion).sum(dim=1)


def estimate_expectations(
    logp: Tensor,
    seen: Seen,
    draws: int,
    objectives: Sequence[Objective],
    max_new_tokens: int,
    parameters: Sequence[Tensor],
    coordinates: Sequence[Tensor],
    signs: Tensor | None = None,
) -> Expected:
    """The expected gradient on-policy and of each objective, from pools of so many `draws`.

    Args:
        logp: (n, T), log pi of the completions, differentiable.
        seen: the completions.
        draws: M, completions of each pool.
        objectives: the corrections, with the switches of `evaluation.gradients.UNBIASED`.
        max_new_tokens: what the sums are divided by, as in `dr_grpo`.
        parameters, coordinates: what gradients are of, as in `evaluation.gradients`.
        signs: (n,), -1 or 1 at random. With them the second moment sum_k b_k |g_k|^2 of single completions is
            estimated, too: the squared norm of sum_k sign_k sqrt(b_k) g_k, in which the products of two cancel on
            average. None: it is not.

    Raises:
        MeasurementError: if two completions are so improbable, some e^-350 each, that the chance to see both is 0 in
            double precision.
    """
    mask, behavior = seen.rollout.mask, seen.rollout.logp.double()
    # In double precision: a tiny probability times a huge weight is an ordinary number.
    target = logp.double()
    policies = [part.detach().masked_fill(~mask, 0.0).sum(dim=1).exp() for part in (target, behavior)]
    inclusion = inclusion_chances(policies, draws)
    weights = [chances / inclusion.diagonal() for chances in policies]
    rows = [(policies[0], weights[0], ON_POLICY), *((policies[1], weights[1], objective) for objective in objectives)]
    factors = [(weight, *([] if signs is None else [signs * weight.sqrt()])) for _, weight, _ in rows]
    sums = torch.zeros(len(factors[0]), len(rows), sum(map(len, coordinates)))
    mixed = bool((seen.rewards != seen.rewards[0]).any())  # otherwise all advantages are 0
    if mixed:
        check_finite(
            1 / inclusion,
            f"gradients.by_completion: the weight of a pair of completions, of up to {mask.shape[1]} tokens,",
            "so long completions are too improbable: lower training.max_new_tokens, or remove gradients.by_completion",
        )
    for number, (chances, _, objective) in enumerate(rows if mixed else ()):
        advantages = expected_advantages(chances, seen.rewards, inclusion)
        for place, factor in enumerate(factors[number]):
            loss, _ = policy_loss(
                objective, target, behavior, mask, advantages,
                max_new_tokens=max_new_tokens, scale=(factor / max_new_tokens).unsqueeze(1),
            )  # fmt: skip
            more = (number + 1, place + 1) != (len(rows), len(sums))
            sums[place, number] = gradient_at(-loss, parameters, coordinates, retain_graph=more)
    return Expected(
        gradients=sums[0],
        second_moments=sums[1:].double().square().sum(dim=-1).flatten(),
        distinct=len(mask),
        covered=torch.stack(policies).sum(dim=1),
        rewards=torch.stack(weights) @ seen.rewards,
    )


def measure_completion_gradients(
    settings: CompletionGradientSettings,
    policy: Policy,
    problems: Sequence[Problem],
    report: Callable[[int], None],
    influence: Tensor | None = None,
) -> CompletionGradientRecord:
    """The record of one size and skip. `report` is called with each finished problem.

    `influence` (L,) is the ablation influence, if the strategy reads it. MeasurementError if there are fewer problems
    than are asked for: the interval takes each to be another.
    """
    options, model = settings.completions, policy.model
    if options.problems > len(problems):
        raise MeasurementError(
            f"gradients.by_completion.problems: {options.problems} are more than the {len(problems)} problems of the "
            "first data set"
        )
    check_policy_skip(policy, settings.skip, settings.border)
    if settings.gradient_checkpointing:
        enable_activation_checkpointing(model)
    coordinates = choose_coordinates(model, options.coordinates, options.seed)
    objectives = [make_objective(name, params, settings) for name, params in options.corrections.items()]
    found = []
    for batch in problem_batches(settings, options, policy, problems, "completion"):
        seeds = ("completion-layers", options.seed)
        skipped = choose_layers(settings.strategy, settings, policy, batch, seeds, influence)
        replicates = [
            _replicate(settings, policy, batch, skipped, number, objectives, coordinates) for number in range(2)
        ]
        found.append(_problem(batch.problems[0].id, skipped, list(options.corrections), replicates))
        report(batch.number + 1)
    return CompletionGradientRecord(
        size=settings.size,
        skip=settings.skip,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        coordinates=sum(map(len, coordinates)),
        pool=options.pool,
        problems=found,
    )


def _replicate(
    settings: CompletionGradientSettings,
    policy: Policy,
    batch: Batch,
    skipped: Sequence[int],
    number: int,
    objectives: Sequence[Objective],
    coordinates: Sequence[Tensor],
) -> Expected:
    """What a pair of pools of the batch's one problem shows; the first of two replicates has the second moments."""
    options, model = settings.completions, policy.model
    seen = _see(settings, policy, batch, skipped, number)
    signs = None
    if number == 0:
        generator = torch.Generator().manual_seed(derive_seed("completion-signs", options.seed, batch.number))
        signs = torch.randint(0, 2, seen.rewards.shape, generator=generator).to(model.device) * 2.0 - 1
    # A context of its own: weights that were cast to sample may have lost their gradient.
    with compute_dtype(model, settings.dtype):
        logp = completion_logp(model, seen.rollout, settings.temperature)
        found = estimate_expectations(
            logp, seen, options.pool, objectives, settings.max_new_tokens, list(model.parameters()), coordinates, signs
        )
    for objective, gradient in zip((ON_POLICY, *objectives), found.gradients, strict=True):
        check_finite(
            gradient,
            f"gradients of {settings.size}, problem {batch.problems[0].id}: the estimate of '{objective.correction}'",
            "remove it from gradients.corrections if its weights are not bounded, or set training.dtype to float32",
        )
    return found


def _see(
    settings: CompletionGradientSettings, policy: Policy, batch: Batch, skipped: Sequence[int], number: int
) -> Seen:
    """The distinct completions of a pair of pools of the batch's one problem."""
    options, model = settings.completions, policy.model
    with compute_dtype(model, settings.dtype), torch.no_grad():
        pools = [
            TorchSampler(policy).sample(
                layers,
                batch.prompt_ids,
                batch.prompt_mask,
                Sampling(temperature=settings.temperature),
                group_size=options.pool,
                max_new_tokens=settings.max_new_tokens,
                seed=derive_seed("completions", options.seed, batch.number, number, side),
            )
            for side, layers in (("target", ()), ("behavior", skipped))
        ]
        rollout = distinct_completions(pools, policy.pad_id)
        behavior = completion_logp(nested_view(model, skipped).eval(), rollout, settings.temperature)
    rollout = Rollout(rollout.prompt_ids, rollout.prompt_mask, rollout.tokens, rollout.mask, behavior)
    rewards = rollout_rewards(policy, rollout, batch.problems, settings.reward)[0]
    return Seen(rollout, rewards.double().to(model.device))


def _problem(
    problem: str, skipped: Sequence[int], corrections: Sequence[str], replicates: Sequence[Expected]
) -> CompletionProblem:
    """The record of one problem from its two replicates: products of one with the other."""
    first, second = replicates
    products = first.gradients.double() @ second.gradients.double().T
    products = (products + products.T) / 2
    covered, rewards = (first.covered + second.covered) / 2, (first.rewards + second.rewards) / 2
    return CompletionProblem(
        problem=problem,
        skipped_layers=list(skipped),
        distinct=(first.distinct + second.distinct) / 2,
        covered_target=covered[0].item(),
        covered_behavior=covered[1].item(),
        reward_target=rewards[0].item(),
        reward_behavior=rewards[1].item(),
        on_policy=products[0, 0].item(),
        second_moment=first.second_moments[0].item(),
        corrections={
            name: Expectation(
                own=products[row, row].item(),
                on_policy=products[0, row].item(),
                second_moment=first.second_moments[row].item(),
            )
            for row, name in enumerate(corrections, start=1)
        },
    )
