"""Bias and variance of the gradient estimates of one model at one skip setting, against on-policy ones.

For every batch of problems: completions by the full model, twice, which are made once for all skip settings, and
completions by a nested view, with the gradient estimate of each correction. All have a leave-one-out baseline, no
division by the standard deviation and the same factor for every token, with which the on-policy estimate is unbiased:
any difference is due to the correction.

Only inner products are kept, from which every norm and angle of means can be computed. They are taken over a random
subset of the parameters, the same for all gradients, so that memory does not grow with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.config.gradients import CompletionGradientSettings, GradientSettings, OnPolicySettings
from nested_reft.config.records.gradients import GradientRecord, Products
from nested_reft.core.advantages import group_advantages
from nested_reft.core.corrections import correction_named
from nested_reft.core.loss import Objective, policy_loss, token_scale
from nested_reft.core.rollout import Rollout
from nested_reft.data.records import DataError, Problem
from nested_reft.engine.logp import completion_logp, enable_activation_checkpointing
from nested_reft.evaluation.measurement import Batch, check_finite, choose_layers, problem_batches
from nested_reft.rollouts.agreement import check_policy_skip
from nested_reft.rollouts.policy import Policy, compute_dtype
from nested_reft.rollouts.rewards import rollout_rewards
from nested_reft.rollouts.samplers import TorchSampler
from nested_reft.runtime.seeding import derive_seed

UNBIASED: dict[str, Any] = {"normalisation": "dr_grpo", "advantage_baseline": "leave_one_out", "advantage_std": False}
REMEDY = "delete the file to make it again"
DIGITS = 8  # of the inner products in the record
# The nested view uses the random numbers of the first on-policy set: where the two distributions agree, it writes the
# same token, so the difference of the estimates has little noise.
PAIRED = "paired"


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
    settings: OnPolicySettings,
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
                objective,
                logp,
                part.logp,
                part.mask,
                advantages[first:last],
                max_new_tokens=settings.max_new_tokens,
                scale=scale[rows],
            )
            more = number + 1 < len(objectives)
            total[number] += gradient_at(-loss, parameters, coordinates, retain_graph=more)
    return total


def gradient_at(
    value: Tensor, parameters: Sequence[Tensor], coordinates: Sequence[Tensor], *, retain_graph: bool
) -> Tensor:
    """The gradient of a scalar at the coordinates of `choose_coordinates`: (coordinates,) float32, on the CPU."""
    grads = torch.autograd.grad(value, parameters, retain_graph=retain_graph, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(parameter) if grad is None else grad).flatten()[indices].float().cpu()
            for parameter, grad, indices in zip(parameters, grads, coordinates, strict=True)
        ]
    )


def make_objective(
    correction: str, params: Mapping[str, float], settings: GradientSettings | CompletionGradientSettings
) -> Objective:
    """The correction with the clip of the update if it takes it, and everything else as unbiased as it can be."""
    clips = correction_named(correction).clip == "update"
    return Objective(
        correction=correction,
        params=params,
        update_clip_low=settings.update_clip_low if clips else None,
        update_clip_high=settings.update_clip_high if clips else None,
        **UNBIASED,
    )


def measure_on_policy(
    settings: OnPolicySettings, policy: Policy, problems: Sequence[Problem], report: Callable[[int], None]
) -> dict[str, Tensor]:
    """Two independent sets of on-policy estimates, `on_policy` and `repeat`, each (batches, coordinates) float32.

    `report` is called with each finished batch.
    """
    coordinates = _coordinates(settings, policy)
    objective = [Objective(correction="unit", **UNBIASED)]
    sets: dict[str, list[Tensor]] = {"on_policy": [], "repeat": []}
    for batch in problem_batches(settings, settings.gradients, policy, problems, "gradient"):
        for name, gradients in sets.items():
            numbers = "repeat" if name == "repeat" else PAIRED
            gradients.append(_estimates(settings, policy, batch, (), numbers, objective, coordinates)[0])
        report(batch.number + 1)
    return {name: torch.stack(gradients) for name, gradients in sets.items()}


def measure_gradients(
    settings: GradientSettings,
    policy: Policy,
    problems: Sequence[Problem],
    on_policy: Mapping[str, Tensor],
    report: Callable[[int], None],
    influence: Tensor | None = None,
) -> GradientRecord:
    """The gradient record of one size and skip, against what `measure_on_policy` found of the same settings.

    `report` is called with each finished batch. `influence` (L,) is the ablation influence, if the strategy reads it.
    """
    options, model = settings.gradients, policy.model
    check_policy_skip(policy, settings.skip, settings.border)
    coordinates = _coordinates(settings, policy)
    corrected = [make_objective(name, params, settings) for name, params in options.corrections.items()]
    estimates = []
    for batch in problem_batches(settings, settings.gradients, policy, problems, "gradient"):
        seeds = ("gradient-layers", options.seed)
        skipped = choose_layers(settings.strategy, settings, policy, batch, seeds, influence)
        estimates.append(_estimates(settings, policy, batch, skipped, PAIRED, corrected, coordinates))
        report(batch.number + 1)
    on, repeat, nested = on_policy["on_policy"], on_policy["repeat"], torch.stack(estimates, dim=1)
    return GradientRecord(
        size=settings.size,
        skip=settings.skip,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        coordinates=on.shape[-1],
        completions=options.problems_per_batch * options.completions_per_problem,
        batches=options.batches,
        on_policy=_inner(on, on),
        repeat=_inner(repeat, repeat),
        on_policy_repeat=_inner(on, repeat),
        corrections={
            name: Products(own=_inner(own, own), on_policy=_inner(on, own))
            for name, own in zip(options.corrections, nested, strict=True)
        },
    )


def load_on_policy(path: Path, settings: OnPolicySettings) -> dict[str, Tensor]:
    """What `measure_on_policy` found, from the file that `nested-reft on-policy-gradients` writes.

    Raises DataError if it is not such a file, or of another number of batches.
    """
    try:
        sets: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read as gradient estimates ({error}); {REMEDY}") from None
    shapes = {name: tuple(tensor.shape) for name, tensor in sets.items()}
    if set(shapes) != {"on_policy", "repeat"} or len(set(shapes.values())) != 1:
        raise DataError(f"{path}: holds {shapes}, not on_policy and repeat of one shape; {REMEDY}")
    if (batches := shapes["repeat"][0]) != settings.gradients.batches:
        raise DataError(f"{path}: has {batches} batches, but {settings.gradients.batches} are measured; {REMEDY}")
    return sets


def _coordinates(settings: OnPolicySettings, policy: Policy) -> list[Tensor]:
    """The same for every set of estimates."""
    if settings.gradient_checkpointing:
        enable_activation_checkpointing(policy.model)
    return choose_coordinates(policy.model, settings.gradients.coordinates, settings.gradients.seed)


def _estimates(
    settings: OnPolicySettings,
    policy: Policy,
    batch: Batch,
    skipped: Sequence[int],
    numbers: str,
    objectives: Sequence[Objective],
    coordinates: Sequence[Tensor],
) -> Tensor:
    """The estimates (objectives, coordinates) of one batch, from rollouts without the layers `skipped`; `numbers` names
    the random numbers that they are sampled with.
    """
    options = settings.gradients
    with compute_dtype(policy.model, settings.dtype):
        rollout = TorchSampler(policy).sample(
            skipped,
            batch.prompt_ids,
            batch.prompt_mask,
            settings.sampling,
            group_size=options.completions_per_problem,
            max_new_tokens=settings.max_new_tokens,
            seed=derive_seed("gradients", options.seed, numbers, batch.number),
        )
    rewards = rollout_rewards(policy, rollout, batch.problems, settings.reward)
    # Another context: weights that were cast to sample may have lost their gradient.
    with compute_dtype(policy.model, settings.dtype):
        estimates = estimate_gradients(policy.model, rollout, rewards, objectives, settings, coordinates)
    for objective, estimate in zip(objectives, estimates, strict=True):
        check_finite(
            estimate,
            f"gradients of {settings.size}, batch {batch.number + 1}: the estimate of '{objective.correction}'",
            "remove it from gradients.corrections if its weights are not bounded, or set training.dtype to float32",
        )
    return estimates


def _inner(rows: Tensor, columns: Tensor) -> list[list[float]]:
    """Inner products <rows_j, columns_k>, (n, n), summed in float64."""
    products = rows.double() @ columns.double().T
    return [[float(f"{value:.{DIGITS}g}") for value in row] for row in products.tolist()]
