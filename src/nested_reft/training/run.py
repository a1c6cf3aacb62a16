"""One reinforced fine-tuning run: what it begins with, and the loop around `step.reft_step`.

The baseline ReFT is the run with skip 0; there is no second trainer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial

import torch
from torch import Tensor

from nested_reft.config.run import Run
from nested_reft.config.sampling import Prompt
from nested_reft.config.strict import settings_hash
from nested_reft.config.training import Training, TrainSettings
from nested_reft.core.corrections import correction_named
from nested_reft.core.layers import decoder_layers
from nested_reft.core.loss import Objective
from nested_reft.core.rollout import Rollout
from nested_reft.data.records import Problem
from nested_reft.engine.logp import enable_activation_checkpointing
from nested_reft.rollouts.agreement import check_policy_skip
from nested_reft.rollouts.lengths import fitting_prompts
from nested_reft.rollouts.policy import Policy
from nested_reft.rollouts.rewards import rollout_rewards
from nested_reft.rollouts.samplers import Sampler, TorchSampler
from nested_reft.runtime.seeding import derive_seed
from nested_reft.runtime.timing import now
from nested_reft.training.accumulation import Batch, NotFiniteError
from nested_reft.training.adapter import add_adapter
from nested_reft.training.adaptive import max_skipped_layers
from nested_reft.training.batches import batch_indices
from nested_reft.training.checkpoint import TrainingState
from nested_reft.training.loop import Job, NumericalError, ResumableLoop, Row
from nested_reft.training.metrics import save_batch, step_alarms, step_row
from nested_reft.training.optimizer import make_optimizer, set_learning_rate, warmup_factor
from nested_reft.training.sharding import shard
from nested_reft.training.step import Learner, reft_step
from nested_reft.training.world import SINGLE_PROCESS, World


def train(
    settings: TrainSettings,
    policy: Policy,
    problems: Sequence[Problem],
    job: Job,
    influence: Tensor | None = None,
    make_sampler: Callable[[Policy], Sampler] = TorchSampler,
) -> tuple[Policy, TrainingState]:
    """Train from the last checkpoint, if there is one; returns the final policy and the metrics of every step.

    Args:
        settings: the run, its training and its prompts.
        policy: what training starts from. Its model is trained in place; sharded, it is of no use afterwards.
        problems: the data set; each step uses some of them (`batch_indices`).
        job: what surrounds the run.
        influence: ablation influence (L,) of the policy, if the run's strategy reads it; a checkpoint of another is not
            continued.
        make_sampler: called once, with the policy that samples.

    Raises:
        StoppedError, NumericalError, WorldError, SamplerError; StorageError for a checkpoint that cannot be written.
    """
    training, run = settings.training, settings.run
    learner = make_learner(policy, run, training, settings.params, job.world, influence, make_sampler)
    num_layers = len(decoder_layers(learner.policy.model))
    prompts = checked_prompts(learner, problems, settings.prompt, "training.max_new_tokens")
    key = settings.key + ("" if influence is None else settings_hash(str(influence.tolist())))
    loop = ResumableLoop(
        job,
        run.path,
        key,
        learner.target,
        learner.optimizer,
        training.steps,
        training.checkpoint_every,
        training.checkpoint_minutes,
    )

    grade = partial(rollout_rewards, reward=settings.reward)

    def make_step(step: int, metrics: Sequence[Row]) -> Row:
        max_skipped = max_skipped_layers(run, settings.adapt, num_layers, metrics)
        rate = training.learning_rate * warmup_factor(step, training.warmup_steps)
        set_learning_rate(learner.optimizer, rate)
        try:
            batch, of_step, seconds = timed_step(learner, step, problems, prompts, grade, max_skipped)
        except NotFiniteError as error:
            path = job.checkpoints / f"not-finite-step{step}.safetensors"
            if job.world.is_main:
                save_batch(path, error.batch)
            raise NumericalError(
                f"{run.path}: step {step} has {error}; its batch is in {path}. Lower training.learning_rate or use a "
                "correction with bounded weights"
            ) from None
        row = step_row(step, batch, of_step, rate, seconds)
        for alarm in step_alarms(row, training.alarms):
            job.tell(f"alarm: step {step}: {alarm['quantity']} is {alarm['value']:.3g}, {alarm['limit']}")
        return row

    state = loop.resume()
    learner.refresh_sampler()
    state = loop.run(state, make_step)
    if learner.adapter is not None:
        learner.adapter.merge_and_unload()
    return learner.policy, state


def make_learner(
    policy: Policy,
    run: Run,
    training: Training,
    params: Mapping[str, float],
    world: World = SINGLE_PROCESS,
    influence: Tensor | None = None,
    make_sampler: Callable[[Policy], Sampler] = TorchSampler,
) -> Learner:
    """What a run begins with. The policy's model becomes what is trained: with an adapter in it, or sharded, if the
    settings ask for that. In shards it cannot be sampled: the learner's `policy` then has a replica.

    The sampler is made last: the copies before it need the memory for a moment.
    """
    objective = make_objective(run, params, training)
    # A copy, since the model is about to change.
    reference = copy.deepcopy(policy.model).requires_grad_(False) if objective.kl_coefficient else None
    adapter = add_adapter(policy.model, training.lora, derive_seed("adapter", run.seed)) if training.lora else None
    target = policy.model
    if training.gradient_checkpointing:
        enable_activation_checkpointing(target)
    if training.sharding and world.size > 1:
        policy = replace(policy, model=shard(target, training.dtype, world))
    optimizer = make_optimizer(target, training.learning_rate, training.weight_decay)
    return Learner(
        run, training, objective, make_sampler(policy), target, optimizer, reference, adapter, world, influence
    )


def make_objective(run: Run, params: Mapping[str, float], training: Training) -> Objective:
    """The switches of the loss as the config sets them; the clip of the update for corrections that take it."""
    switches = training.model_dump(include={field.name for field in fields(Objective)})
    if correction_named(run.correction).clip == "own":
        switches |= {"update_clip_low": None, "update_clip_high": None}
    return Objective(run.correction, params, **switches)


def checked_prompts(learner: Learner, problems: Sequence[Problem], prompt: Prompt, key: str) -> list[list[int]]:
    """The prompts of problems as tokens. DataError if the model cannot be sampled as the run does it; `key` is that of
    the config for the number of new tokens.
    """
    prompts = fitting_prompts(learner.policy, problems, prompt, learner.training, key)
    check_policy_skip(learner.policy, learner.run.skip, learner.training.border)
    return prompts


def timed_step(
    learner: Learner,
    step: int,
    problems: Sequence[Problem],
    prompts: Sequence[list[int]],
    grade: Callable[[Policy, Rollout, Sequence[Problem]], Tensor],
    max_skipped: int | None = None,
) -> tuple[Batch, dict[str, float], dict[str, float]]:
    """Step `step` (from 1) on its share of the data set: its batch, its metrics, and the seconds of its phases.

    The sampler has the new weights afterwards, which is a part of the phase `update`.
    """
    indices = batch_indices(step, learner.training.problems_per_step, len(problems), learner.run.seed)
    batch_problems = [problems[i] for i in indices]

    def reward(rollout: Rollout, share: slice) -> Tensor:
        with learner.world.raise_on_all_ranks():
            return grade(learner.policy, rollout, batch_problems[share])

    clock = PhaseClock(learner.policy.model.device)
    batch, metrics = reft_step(learner, step, [prompts[i] for i in indices], reward, clock.end_phase, max_skipped)
    learner.refresh_sampler()
    clock.end_phase("update")
    return batch, metrics, clock.slowest(learner.world)


class PhaseClock:
    """Seconds of the phases of a step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = now(device)
        self._seconds: dict[str, float] = {}

    def end_phase(self, phase: str) -> None:
        """End the phase that began at the end of the last one."""
        before, self._last = self._last, now(self._device)
        self._seconds[phase] = self._last - before

    def slowest(self, world: World) -> dict[str, float]:
        """Seconds of each phase in the process that took longest."""
        of_ranks = world.all_gather(self._seconds)
        return {phase: max(seconds[phase] for seconds in of_ranks) for phase in self._seconds}
