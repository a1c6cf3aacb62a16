"""How nestable one model is at one skip setting: how far its nested rollouts are from the model, for each
layer-selection strategy.

For every batch of problems and every strategy: completions by the nested view, and their log-probabilities under
the whole model. The strategies share problems and random numbers, so that they differ by the layers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nested_reft.config.nestability import NestabilitySettings
from nested_reft.config.records.nestability import NestabilityRecord, NestabilityRow
from nested_reft.core.diagnostics import off_policy_diagnostics
from nested_reft.core.layers import decoder_layers, nested_view
from nested_reft.data.records import Problem
from nested_reft.engine.logp import completion_logp
from nested_reft.evaluation.measurement import choose_layers, problem_batches
from nested_reft.rollouts.agreement import check_policy_skip
from nested_reft.rollouts.policy import Policy, compute_dtype
from nested_reft.rollouts.rewards import rollout_rewards
from nested_reft.rollouts.samplers import TorchSampler
from nested_reft.runtime.seeding import derive_seed

MEASURED = ("kl_k1", "kl_k3", "ess", "ess_sequence")


def measure_nestability(
    settings: NestabilitySettings,
    policy: Policy,
    problems: Sequence[Problem],
    report: Callable[[int], None],
    influence: Tensor | None = None,
) -> NestabilityRecord:
    """The record of one model and skip: for each strategy a list of batches, each with its skipped layers, tokens,
    reward and the diagnostics `MEASURED` (`core/diagnostics.py`). At skip 0 the first strategy stands for all.

    `report` is called with each finished batch. `influence` (L,) is the ablation influence, if a strategy reads it.
    Raises DataError if the model cannot take such lengths.
    """
    options, model = settings.nestability, policy.model
    check_policy_skip(policy, settings.skip, settings.border)
    sampler = TorchSampler(policy, settings.rollout_precision)
    found: dict[str, list[NestabilityRow]] = {
        name: [] for name in (options.strategies if settings.skip else options.strategies[:1])
    }
    for batch in problem_batches(settings, options, policy, problems, "nestability"):
        for name, rows in found.items():
            skipped = choose_layers(name, settings, policy, batch, ("nestability-layers", options.seed), influence)
            with compute_dtype(model, settings.dtype), torch.no_grad():
                rollout = sampler.sample(
                    skipped,
                    batch.prompt_ids,
                    batch.prompt_mask,
                    settings.sampling,
                    group_size=options.completions_per_problem,
                    max_new_tokens=settings.max_new_tokens,
                    seed=derive_seed("nestability", options.seed, batch.number),
                )
                logp = completion_logp(nested_view(model, ()).eval(), rollout, settings.sampling.temperature)
            distances = off_policy_diagnostics(logp, rollout.logp, rollout.mask)
            rows.append(
                NestabilityRow(
                    skipped_layers=list(skipped),
                    tokens=int(rollout.mask.sum()),
                    reward=rollout_rewards(policy, rollout, batch.problems, settings.reward).mean().item(),
                    **{key: distances[key] for key in MEASURED},
                )
            )
        report(batch.number + 1)
    return NestabilityRecord(
        size=settings.size,
        stage=settings.stage,
        skip=settings.skip,
        num_layers=len(decoder_layers(model)),
        completions=options.problems_per_batch * options.completions_per_problem,
        strategies=found,
    )
