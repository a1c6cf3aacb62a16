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

from nested_reft.config.records import Phases, StepPair, StepSpeedRecord
from nested_reft.config.run import Run
from nested_reft.config.throughput import StepSpeedSettings
from nested_reft.core.rollout import Rollout
from nested_reft.data.records import Problem
from nested_reft.rollouts.agreement import check_policy_skip
from nested_reft.rollouts.lengths import check_policy_lengths
from nested_reft.rollouts.policy import Policy
from nested_reft.rollouts.prompts import encode_prompts
from nested_reft.rollouts.rewards import rollout_rewards
from nested_reft.rollouts.samplers import Sampler, TorchSampler
from nested_reft.training.batches import batch_indices
from nested_reft.training.run import PhaseClock, make_objective, make_step_settings, refresh_engine, start_learner
from nested_reft.training.step import reft_step
from nested_reft.training.world import SINGLE_PROCESS, World


def measure_steps(
    settings: StepSpeedSettings,
    policy: Policy,
    problems: Sequence[Problem],
    report: Callable[[StepPair], None] = lambda pair: None,
    world: World = SINGLE_PROCESS,
    make_engine: Callable[[Policy], Sampler] = TorchSampler,
) -> StepSpeedRecord:
    """The record of one size and skip: seconds of each phase of a step, on both sides of every pair.

    `report` is called with each pair that counts. Several processes measure as they train, each with its share of the
    problems; a phase takes as long as in the slowest. `make_engine` makes what writes the completions, as in training.
    """
    options, training = settings.step_speed, settings.training
    run = Run(size=settings.size, dataset="", correction=settings.correction, skip=settings.skip, seed=options.seed)
    endless = replace(policy, end_ids=())
    objective = make_objective(run, settings.params, training)
    learner, _ = start_learner(endless, training, objective, run.seed, world, make_engine=make_engine)
    for group in learner.optimizer.param_groups:
        group["lr"] = 0.0
    nested = make_step_settings(run, training)
    prompts = encode_prompts(
        [problem.question for problem in problems], settings.prompt, policy.tokenizer, training.max_prompt_tokens
    )
    check_policy_lengths(policy, prompts, training.max_new_tokens, "step_speed.new_tokens")
    check_policy_skip(policy, settings.skip, training.border)
    refresh_engine(learner)

    def step(skip: int, pair: int) -> tuple[tuple[int, ...], dict[str, float]]:
        indices = batch_indices(pair, training.problems_per_step, len(problems), run.seed)
        batch = [problems[i] for i in indices]

        def reward(rollout: Rollout, share: slice) -> Tensor:
            with world.raise_on_all_ranks():
                graded = rollout_rewards(endless, rollout, batch[share])
            return (torch.arange(graded.numel()) % 2).view_as(graded).to(graded)

        clock = PhaseClock(policy.model.device)
        done, _ = reft_step(
            learner, replace(nested, skip_percent=skip), pair, [prompts[i] for i in indices], reward, clock.lap
        )
        refresh_engine(learner)
        clock.lap("update")
        return done.skipped, clock.slowest(world)

    pairs: list[StepPair] = []
    for pair in range(1, options.warmup_pairs + options.pairs + 1):
        sides = [step(skip, pair) for skip in ((settings.skip, 0) if pair % 2 else (0, settings.skip))]
        (skipped, own), (_, full) = sides if pair % 2 else sides[::-1]
        if pair > options.warmup_pairs:
            pairs.append(StepPair(baseline=Phases(**full), nested=Phases(**own), skipped_layers=list(skipped)))
            report(pairs[-1])
    return StepSpeedRecord(
        size=settings.size,
        skip=settings.skip,
        completions=training.problems_per_step * training.completions_per_problem,
        new_tokens=training.max_new_tokens,
        pairs=pairs,
    )
