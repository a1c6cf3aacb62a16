"""What measurements of one model share: batches of problems, the layers that a batch's rollout skips, a check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nested_reft.config.sampling import ModelJob
from nested_reft.core.layer_selection import choose_skipped_layers
from nested_reft.core.layers import decoder_layers
from nested_reft.data.records import Problem
from nested_reft.engine.layer_influence import influence_of
from nested_reft.rollouts.lengths import fitting_prompts
from nested_reft.rollouts.policy import Policy
from nested_reft.runtime.errors import UserError
from nested_reft.runtime.seeding import derive_seed

if TYPE_CHECKING:  # so that one measurement does not depend on the settings of another
    from nested_reft.config.gradients import (
        CompletionGradientSettings,
        CompletionMeasurement,
        GradientBatches,
        GradientSettings,
    )
    from nested_reft.config.nestability import NestabilityMeasurement, NestabilitySettings


class MeasurementError(UserError, ArithmeticError):
    """What was measured is not a finite number; the message says of what, and what to change."""


def check_finite(values: Tensor, measured: str, remedy: str) -> None:
    """MeasurementError if what was `measured` is not finite."""
    if not values.isfinite().all():
        raise MeasurementError(f"{measured} is not a finite number; {remedy}")


@dataclass(frozen=True)
class Batch:
    """Some problems and their prompts: ids and mask (P, S)."""

    number: int
    problems: Sequence[Problem]
    prompt_ids: Tensor
    prompt_mask: Tensor


def problem_batches(
    settings: ModelJob,
    options: GradientBatches | CompletionMeasurement | NestabilityMeasurement,
    policy: Policy,
    problems: Sequence[Problem],
    measurement: str,
) -> Iterator[Batch]:
    """The batches, which go through the problems in a random order and start over at its end."""
    prompts = fitting_prompts(policy, problems, settings.prompt, settings, "training.max_new_tokens")
    generator = torch.Generator().manual_seed(derive_seed(f"{measurement}-problems", options.seed))
    order = torch.randperm(len(problems), generator=generator).tolist()
    for number in range(options.batches):
        first = number * options.problems_per_batch
        indices = [order[i % len(order)] for i in range(first, first + options.problems_per_batch)]
        yield Batch(number, [problems[i] for i in indices], *policy.batch([prompts[i] for i in indices]))


def choose_layers(
    strategy: str,
    settings: GradientSettings | CompletionGradientSettings | NestabilitySettings,
    policy: Policy,
    batch: Batch,
    seeds: tuple[str, int],
    influence: Tensor | None,
) -> tuple[int, ...]:
    """The layers that the rollout of a batch leaves out, chosen as in a run.

    `seeds`: the name of these random numbers, and the measurement's seed. `influence` (L,) is the ablation influence,
    for strategies that read it.
    """
    return choose_skipped_layers(
        strategy,
        len(decoder_layers(policy.model)),
        settings.skip,
        settings.border,
        batch_seed=derive_seed(*seeds, batch.number),
        run_seed=derive_seed(*seeds),
        influence=influence_of(strategy, policy.model, batch.prompt_ids, batch.prompt_mask, influence),
    )
