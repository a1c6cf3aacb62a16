"""Bias and variance of the gradient estimates of one model at one skip setting, against on-policy ones.

For every batch of problems: completions by the full model, twice, and completions by a nested view, with the gradient
estimate of each correction. All have a leave-one-out baseline, no division by the standard deviation and the same
factor for every token, with which the on-policy estimate is unbiased: any difference is due to the correction.

Only inner products are kept, from which every norm and angle of means can be computed. They are taken over a random
subset of the parameters, the same for all gradients, so that memory does not grow with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.config.gradients import GradientSettings
from nested_reft.core.advantages import group_advantages
from nested_reft.core.corrections import correction_named
from nested_reft.core.layer_selection import choose_skipped_layers
from nested_reft.core.layers import decoder_layers, nested_view
from nested_reft.core.loss import Objective, policy_loss, token_scale
from nested_reft.core.rollout import Rollout
from nested_reft.engine.influence import influence_of
from nested_reft.engine.logp import completion_logp, enable_activation_checkpointing
from nested_reft.runtime.seeding import derive_seed
from nested_reft.tasks.lengths import check_policy_lengths
from nested_reft.tasks.policy import Policy, compute_dtype
from nested_reft.tasks.prompts import encode_prompts
from nested_reft.tasks.records import Problem
from nested_reft.tasks.rewards import rollout_rewards
from nested_reft.tasks.rollouts import sample_rollout

UNBIASED: dict[str, Any] = {
    "normalisation": "dr_grpo", "advantage_baseline": "leave_one_out", "advantage_std": False,
}  # fmt: skip
DIGITS = 8  # of the inner products in the record


def choose_coordinates(model: PreTrainedModel, count: int, seed: int) -> list[Tensor]:
    """The flat indices of each parameter that are compared: `count` in all, uniformly without replacement."""
    sizes = [parameter.numel() for parameter in model.parameters()]
    total = sum(sizes)
    if count >= total:
        return [torch.arange(size, device=model.device) for size in sizes]
    generator = torch.Generator().manual_seed(derive_seed("gradient-coordinates", seed))
    # Drawn with replacement, then repeats removed: a permutation of billions would not fit in memory.
    chosen = torch.empty(0, dtype=torch.long)
    while len(chosen) < count:
        more = torch.randint(total, (2 * count,), generator=generator)
        chosen = torch.unique(torch.cat((chosen, more)))
    chosen = chosen[torch.randperm(len(chosen), generator=generator)[:count]].sort().values
    starts = torch.tensor([0, *sizes]).cumsum(0)
    bounds = torch.searchsorted(chosen, starts)
    return [(chosen[bounds[i] : bounds[i + 1]] - starts[i]).to(model.device) for i in range(len(sizes))]


def estimate_gradients(
    model: PreTrainedModel,
    rollout: Rollout,
    rewards: Tensor,
    objectives: Sequence[Objective],
    settings: GradientSettings,
    coordinates: Sequence[Tensor],
) -> Tensor:
    """The gradient estimate of each objective from one rollout with rewards (P, G): (objectives, coordinates) float32.

    One forward pass serves all objectives, in micro-batches of whole groups.
    """
    parameters = list(model.parameters())
    num_prompts, group = len(rollout.prompt_ids), rollout.group_size
    size = settings.problems_per_micro_batch or num_prompts
    total = torch.zeros(len(objectives), sum(map(len, coordinates)))
    scale = token_scale(rollout.mask, UNBIASED["normalisation"], settings.max_new_tokens)
    advantages = group_advantages(
        rewards, baseline=UNBIASED["advantage_baseline"], scale_by_std=UNBIASED["advantage_std"]
    )
    for first in range(0, num_prompts, size):
        last = min(first + size, num_prompts)
        part, rows = rollout.groups(slice(first, last)), slice(first * group, last * group)
        logp = completion_logp(model, part, settings.sampling.temperature)
        for number, objective in enumerate(objectives):
            loss, _ = policy_loss(
                objective, logp, part.logp, part.mask, advantages[first:last],
                max_new_tokens=settings.max_new_tokens, scale=scale[rows],
            )  # fmt: skip
            grads = torch.autograd.grad(-loss, parameters, retain_graph=number + 1 < len(objectives), allow_unused=True)
            total[number] += torch.cat(
                [
                    (torch.zeros_like(parameter) if grad is None else grad).flatten()[indices].float().cpu()
                    for parameter, grad, indices in zip(parameters, grads, coordinates, strict=True)
                ]
            )
    return total


def make_objective(correction: str, params: Mapping[str, float], settings: GradientSettings) -> Objective:
    """The correction with the clip of the update if it takes it, and everything else as unbiased as it can be."""
    clips = correction_named(correction).clip == "update"
    return Objective(
        correction=correction,
        params=params,
        update_clip_low=settings.update_clip_low if clips else None,
        update_clip_high=settings.update_clip_high if clips else None,
        **UNBIASED,
    )


def measure_gradients(
    settings: GradientSettings,
    policy: Policy,
    problems: Sequence[Problem],
    report: Callable[[int], None],
    influence: Tensor | None = None,
) -> dict[str, Any]:
    """The gradient record of one size and skip; `report` is called with each finished batch. `influence` (L,) is the
    ablation influence, if the strategy reads it.
    """
    options, model = settings.gradients, policy.model
    if settings.gradient_checkpointing:
        enable_activation_checkpointing(model)
    prompts = encode_prompts(
        [problem.question for problem in problems], settings.prompt, policy.tokenizer, settings.max_prompt_tokens
    )
    check_policy_lengths(policy, prompts, settings.max_new_tokens, "training.max_new_tokens")
    coordinates = choose_coordinates(model, options.coordinates, options.seed)
    on_policy = [Objective(correction="unit", **UNBIASED)]
    corrected = [make_objective(name, params, settings) for name, params in options.corrections.items()]
    sets: dict[str, list[Tensor]] = {"on_policy": [], "repeat": [], "nested": []}
    order = torch.randperm(
        len(problems), generator=torch.Generator().manual_seed(derive_seed("gradient-problems", options.seed))
    ).tolist()
    for batch in range(options.batches):
        first = batch * options.problems_per_batch
        indices = [order[i % len(order)] for i in range(first, first + options.problems_per_batch)]
        prompt_ids, prompt_mask = policy.batch([prompts[i] for i in indices])
        skipped = choose_skipped_layers(
            settings.strategy,
            len(decoder_layers(model)),
            settings.skip,
            settings.border,
            batch_seed=derive_seed("gradient-layers", options.seed, batch),
            run_seed=derive_seed("gradient-layers", options.seed),
            influence=influence_of(settings.strategy, model, prompt_ids, prompt_mask, influence),
        )
        for name, gradients in sets.items():
            with compute_dtype(model, settings.dtype):
                rollout = sample_rollout(
                    policy,
                    nested_view(model, skipped if name == "nested" else ()).eval(),
                    prompt_ids,
                    prompt_mask,
                    settings.sampling,
                    group_size=options.completions_per_problem,
                    max_new_tokens=settings.max_new_tokens,
                    # The nested view uses the random numbers of the first on-policy set: where the two distributions
                    # agree, it writes the same token, so the difference of the estimates has little noise.
                    seed=derive_seed("gradients", options.seed, "repeat" if name == "repeat" else "paired", batch),
                )
                rewards = rollout_rewards(policy, rollout, [problems[i] for i in indices])
                objectives = corrected if name == "nested" else on_policy
                gradients.append(estimate_gradients(model, rollout, rewards, objectives, settings, coordinates))
        report(batch + 1)
    on, repeat, nested = (torch.stack(gradients) for gradients in sets.values())  # (batches, objectives, coordinates)
    return {
        "size": settings.size,
        "skip": settings.skip,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "coordinates": on.shape[-1],
        "completions": options.problems_per_batch * options.completions_per_problem,
        "batches": options.batches,
        "on_policy": _inner(on[:, 0], on[:, 0]),
        "repeat": _inner(repeat[:, 0], repeat[:, 0]),
        "on_policy_repeat": _inner(on[:, 0], repeat[:, 0]),
        "corrections": {
            name: {"own": _inner(nested[:, i], nested[:, i]), "on_policy": _inner(on[:, 0], nested[:, i])}
            for i, name in enumerate(options.corrections)
        },
    }


def _inner(rows: Tensor, columns: Tensor) -> list[list[float]]:
    """Inner products <rows_j, columns_k>, (n, n), summed in float64."""
    products = rows.double() @ columns.double().T
    return [[float(f"{value:.{DIGITS}g}") for value in row] for row in products.tolist()]
