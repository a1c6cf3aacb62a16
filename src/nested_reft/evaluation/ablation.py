"""Ablation influence of each layer of one model, before any reinforcement.

The text is the prompts of training problems alone: it is the same for every policy and needs no rollout. The next
token is compared at every token of a prompt, not only at its last, from which a rollout starts.
"""

from __future__ import annotations

from collections.abc import Sequence

from nested_reft.config.ablation import InfluenceSettings
from nested_reft.config.records.influence import InfluenceRecord
from nested_reft.data.records import Problem
from nested_reft.engine.layer_influence import ablation_influence
from nested_reft.evaluation.measurement import check_finite
from nested_reft.rollouts.lengths import fitting_prompts
from nested_reft.rollouts.policy import Policy, compute_dtype


def measure_influence(settings: InfluenceSettings, policy: Policy, problems: Sequence[Problem]) -> InfluenceRecord:
    """The record of one model: `influence` in nats per token by layer, and the prompts and tokens that it is a mean of.

    Raises DataError if a prompt is too long, alone or with a completion; MeasurementError if it is not finite.
    """
    chosen = problems[: settings.problems]
    prompts = fitting_prompts(policy, chosen, settings.prompt, settings, "training.max_new_tokens")
    ids, mask = policy.batch(prompts)
    with compute_dtype(policy.model, settings.dtype):
        influence = ablation_influence(policy.model, ids, mask)
    measured = f"influence of {settings.size}, {settings.stage}: that of a layer"
    check_finite(influence, measured, "set training.dtype to float32, or use another model")
    return InfluenceRecord(
        size=settings.size,
        stage=settings.stage,
        problems=len(prompts),
        tokens=int(mask.sum()),
        influence=influence.tolist(),
    )
