"""Speed of whole training steps, nested rollouts against full ones: paired, interleaved, and on equal work.

Every completion has the same number of tokens (no end token stops it), and rewards are replaced, once they have been
graded, by ones that differ within each group, so that no group is left out of the update. A pair then differs only in
the layers of its rollout. The order within a pair alternates, so that a drift of the machine's speed does not favour
one side. The learning rate is 0: the last pair has the weights of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nested_reft.config.records.step_speed import Phases, StepPair, StepSpeedRecord
from nested_reft.config.reward import Reward
from nested_reft.config.run import Run
from nested_reft.config.throughput import StepSpeedSettings
from nested_reft.core.rollout import Rollout
from nested_reft.data.records import Problem
from nested_reft.rollouts.policy import Policy
from nested_reft.rollouts.rewards import rollout_rewards
from nested_reft.rollouts.samplers import Sampler, TorchSampler
from nested_reft.training.optimizer import set_learning_rate
from nested_reft.training.run import checked_prompts, make_learner, timed_step
from nested_reft.training.world import SINGLE_PROCESS, World


def measure_steps(
    settings: StepSpeedSettings,
    policy: Policy,
    problems: Sequence[Problem],
    report: Callable[[StepPair], None] = lambda pair: None,
    world: World = SINGLE_PROCESS,
    make_sampler: Callable[[Policy], Sampler] = TorchSampler,
) -> StepSpeedRecord:
    """The record of one size and skip: seconds of each phase of a step, on both sides of every pair.

    `report` is called with each pair that counts. Several processes measure as they train, each with its share of the
    problems; a phase takes as long as in the slowest. `make_sampler` is as in training.
    """
    options, training = settings.step_speed, settings.training
    run = Run(size=settings.size, dataset="", correction=settings.correction, skip=settings.skip, seed=options.seed)
    endless = replace(policy, end_ids=())
    nested = make_learner(endless, run, training, settings.params, world, make_sampler=make_sampler)
    full = replace(nested, run=run.model_copy(update={"skip": 0}))
    prompts = checked_prompts(nested, problems, settings.prompt, "step_speed.new_tokens")
    set_learning_rate(nested.optimizer, 0.0)
    nested.refresh_sampler()
    pairs: list[StepPair] = []
    for pair in range(1, options.warmup_pairs + options.pairs + 1):
        sides = (nested, full) if pair % 2 else (full, nested)
        done = [timed_step(side, pair, problems, prompts, _different_rewards) for side in sides]
        (batch, _, own), (_, _, baseline) = done if pair % 2 else done[::-1]
        if pair > options.warmup_pairs:
            pairs.append(
                StepPair(baseline=Phases(**baseline), nested=Phases(**own), skipped_layers=list(batch.skipped))
            )
            report(pairs[-1])
    return StepSpeedRecord(
        size=settings.size,
        skip=settings.skip,
        completions=training.problems_per_step * training.completions_per_problem,
        new_tokens=training.max_new_tokens,
        pairs=pairs,
    )


def _different_rewards(policy: Policy, rollout: Rollout, problems: Sequence[Problem]) -> Tensor:
    """Rewards (P, G) that differ within each group, after the time that grading takes."""
    graded = rollout_rewards(policy, rollout, problems, Reward())
    return (torch.arange(graded.numel()) % 2).view_as(graded).to(graded)
