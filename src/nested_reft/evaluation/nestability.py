"""How nestable one model is at one skip setting, for one choice of layers: how far its nested rollouts are from it.

For every batch of problems: completions by the nested view, and their log-probabilities under the whole model. All
choices of layers share problems and random numbers, so that they differ by the layers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nested_reft.config.nestability import NestabilitySettings
from nested_reft.config.records.nestability import BehaviourRow, NestabilityRecord, NestabilityRow
from nested_reft.core.diagnostics import off_policy_diagnostics
from nested_reft.core.layers import decoder_layers, nested_view
from nested_reft.core.rollout import Rollout
from nested_reft.data.records import Problem
from nested_reft.engine.logp import completion_logp
from nested_reft.evaluation.measurement import Batch, choose_layers, problem_batches
from nested_reft.rollouts.agreement import check_policy_skip
from nested_reft.rollouts.policy import Policy, compute_dtype
from nested_reft.rollouts.rewards import rollout_rewards
from nested_reft.rollouts.samplers import TorchSampler
from nested_reft.runtime.seeding import derive_seed
from nested_reft.runtime.timing import now

MEASURED = ("kl_k1", "kl_k3", "ess", "ess_sequence")


def measure_nestability(
    settings: NestabilitySettings,
    policy: Policy,
    problems: Sequence[Problem],
    report: Callable[[int], None],
    influence: Tensor | None = None,
) -> NestabilityRecord:
    """The record of one model, skip and choice of layers: a list of batches, each with its skipped layers, tokens,
    reward and the diagnostics `MEASURED` (`core/diagnostics.py`).

    With `precisions`, the same for each of them, timed without the making of matrices: the two sides of a pair have the
    same prompts and random numbers, and their order alternates. `report` is called with each finished batch.
    `influence` (L,) is the ablation influence, if the strategy reads it. Raises DataError if the model cannot take such
    lengths, SamplerError for a precision that the device is not good at.
    """
    options = settings.nestability
    check_policy_skip(policy, settings.skip, settings.border)
    sampler = TorchSampler(policy, settings.rollout_precision)
    others = {name: TorchSampler(policy, name) for name in options.precisions}
    batches = list(problem_batches(settings, options, policy, problems, "nestability"))
    seeds = ("nestability-layers", options.seed)
    layers = [choose_layers(settings.strategy, settings, policy, batch, seeds, influence) for batch in batches]
    rows: list[NestabilityRow] = []
    timed: dict[str, list[BehaviourRow]] = {precision: [] for precision in others}
    for batch, skipped in zip(batches, layers, strict=True):
        rollout, _ = _sample(settings, sampler, batch, skipped)
        rows.append(NestabilityRow(**_measured(settings, policy, batch, rollout, skipped)))
        report(batch.number + 1)
    # One precision after the other, so that the matrices of two are in memory at once, and not those of all.
    for place, (precision, other) in enumerate(others.items(), start=1):
        for batch, skipped in zip(batches, layers, strict=True):
            sides = ((other, skipped), (sampler, ()))
            order = sides if batch.number % 2 else sides[::-1]
            # Made again for each pair: where they happen to lie in memory makes up to 10 % of the speed.
            for side, _ in order:
                side.release()
            for side, _ in order:
                _sample(settings, side, batch, (), max_new_tokens=1)
            results = {id(side): _sample(settings, side, batch, without) for side, without in order}
            (rollout, seconds), (baseline, baseline_seconds) = results[id(other)], results[id(sampler)]
            timed[precision].append(
                BehaviourRow(
                    **_measured(settings, policy, batch, rollout, skipped),
                    seconds=seconds,
                    baseline_tokens=int(baseline.mask.sum()),
                    baseline_seconds=baseline_seconds,
                )
            )
            report(place * len(batches) + batch.number + 1)
        other.release()
    return NestabilityRecord(
        size=settings.size,
        stage=settings.stage,
        skip=settings.skip,
        strategy=settings.strategy,
        border=settings.border,
        num_layers=len(decoder_layers(policy.model)),
        completions=options.problems_per_batch * options.completions_per_problem,
        batches=rows,
        behaviours=timed,
    )


def _sample(
    settings: NestabilitySettings,
    sampler: TorchSampler,
    batch: Batch,
    skipped: Sequence[int],
    max_new_tokens: int | None = None,
) -> tuple[Rollout, float]:
    """A batch's rollout without these layers, and its seconds."""
    model, options = sampler.policy.model, settings.nestability
    with compute_dtype(model, settings.dtype):
        started = now(model.device)
        rollout = sampler.sample(
            skipped,
            batch.prompt_ids,
            batch.prompt_mask,
            settings.sampling,
            group_size=options.completions_per_problem,
            max_new_tokens=max_new_tokens or settings.max_new_tokens,
            seed=derive_seed("nestability", options.seed, batch.number),
        )
        return rollout, now(model.device) - started


def _measured(
    settings: NestabilitySettings,
    policy: Policy,
    batch: Batch,
    rollout: Rollout,
    skipped: Sequence[int],
) -> dict[str, Any]:
    """How far a rollout without these layers is from the whole model, and how good it is."""
    with compute_dtype(policy.model, settings.dtype), torch.no_grad():
        logp = completion_logp(nested_view(policy.model, ()).eval(), rollout, settings.sampling.temperature)
    distances = off_policy_diagnostics(logp, rollout.logp, rollout.mask)
    return {
        "skipped_layers": list(skipped),
        "tokens": int(rollout.mask.sum()),
        "reward": rollout_rewards(policy, rollout, batch.problems, settings.reward).mean().item(),
        **{key: distances[key] for key in MEASURED},
    }
