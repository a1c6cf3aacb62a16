"""One reinforced fine-tuning run: the loop around `step.reft_step`, with resume, stop, logging and clocks.

The baseline ReFT is the run with skip 0; there is no second trainer.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.config.run import Run
from nested_reft.config.strict import settings_hash
from nested_reft.config.training import Training, TrainSettings
from nested_reft.core.corrections import correction_named
from nested_reft.core.layers import decoder_layers
from nested_reft.core.loss import Objective
from nested_reft.core.rollout import Rollout
from nested_reft.data.records import Problem
from nested_reft.engine.logp import enable_activation_checkpointing
from nested_reft.rollouts.agreement import check_policy_skip
from nested_reft.rollouts.lengths import check_policy_lengths
from nested_reft.rollouts.policy import Policy
from nested_reft.rollouts.prompts import encode_prompts
from nested_reft.rollouts.rewards import rollout_rewards
from nested_reft.rollouts.samplers import Sampler, TorchSampler
from nested_reft.runtime.errors import UserError
from nested_reft.runtime.seeding import derive_seed
from nested_reft.runtime.timing import now
from nested_reft.training.accumulation import NotFiniteError
from nested_reft.training.adapter import add_adapter
from nested_reft.training.adaptive import max_skipped_layers
from nested_reft.training.batches import batch_indices
from nested_reft.training.checkpoint import CheckpointKey, TrainingState, load_checkpoint, save_checkpoint
from nested_reft.training.metrics import save_batch, step_alarms, step_row
from nested_reft.training.optimizer import make_optimizer, set_learning_rate
from nested_reft.training.sharding import copy_weights, sharded_copy
from nested_reft.training.step import Learner, StepSettings, reft_step
from nested_reft.training.stopping import StoppedError
from nested_reft.training.world import SINGLE_PROCESS, World

if TYPE_CHECKING:
    from peft import PeftModel


class NumericalError(UserError):
    """The loss or its gradient is not finite; the message names the step, the saved batch, and what to try."""


def train(
    settings: TrainSettings,
    policy: Policy,
    problems: Sequence[Problem],
    checkpoint_folder: Path,
    report: Callable[[dict[str, Any], float], None],
    log: Callable[[str], None],
    stop: Callable[[], bool] = lambda: False,
    world: World = SINGLE_PROCESS,
    code: str = "",
    influence: Tensor | None = None,
    make_engine: Callable[[Policy], Sampler] = TorchSampler,
) -> TrainingState:
    """Train `policy.model` in place, from the last checkpoint if there is one, and return the run's metrics.

    Args:
        settings: the run, its training and its prompts.
        policy: what training starts from.
        problems: the data set; each step uses some of them (`batch_indices`).
        checkpoint_folder: of this run and these settings.
        report: called after each step with its metrics and the seconds left at the pace so far.
        log: told whether the run continues or starts over, and of alarms.
        stop: asked before each step; if true, what is not saved yet is saved and StoppedError raised.
        world: if of several processes, each calls this with the same arguments and gets the same model and metrics.
        code: the digest of the sources; a checkpoint that other sources made is not continued.
        influence: ablation influence (L,) of the policy, if the run's strategy reads it; likewise.
        make_engine: called once, with `policy`: what writes the completions.

    Raises:
        StoppedError, NumericalError, WorldError, EngineError; StorageError for a checkpoint that cannot be written.
    """
    training, run = settings.training, settings.run
    if not world.is_main:
        report, log = (lambda row, seconds_left: None), (lambda text: None)
    objective = make_objective(run, settings.params, training)
    learner, adapter = start_learner(policy, training, objective, run.seed, world, influence, make_engine)
    step_settings, num_layers = make_step_settings(run, training), len(decoder_layers(policy.model))
    prompts = encode_prompts(
        [problem.question for problem in problems], settings.prompt, policy.tokenizer, training.max_prompt_tokens
    )
    check_policy_lengths(policy, prompts, training.max_new_tokens, "training.max_new_tokens")
    check_policy_skip(policy, run.skip, training.border)
    measured = "" if influence is None else settings_hash(str(influence.tolist()))
    owner = CheckpointKey(settings.key + measured, code)
    found = load_checkpoint(checkpoint_folder, owner, learner.target, learner.optimizer, log, world)
    progress = found or TrainingState(0, 0.0, [])
    refresh_engine(learner)
    started = time.perf_counter() - progress.seconds

    def save(state: TrainingState) -> None:
        save_checkpoint(checkpoint_folder, owner, learner.target, learner.optimizer, state, world)

    saved = progress.step
    for step in range(progress.step + 1, training.steps + 1):
        if world.any(stop()):
            if saved < progress.step:
                save(progress)
            raise StoppedError(
                f"{run.path}: stopped after step {progress.step} of {training.steps}; run again to continue"
            )
        indices = batch_indices(step, training.problems_per_step, len(problems), run.seed)
        batch_problems = [problems[i] for i in indices]

        def reward(rollout: Rollout, share: slice, batch_problems: Sequence[Problem] = batch_problems) -> Tensor:
            with world.raise_on_all_ranks():
                rewards = rollout_rewards(policy, rollout, batch_problems[share], settings.reward)
            return rewards

        max_skipped = max_skipped_layers(run, settings.adapt, num_layers, progress.metrics)
        clock = PhaseClock(policy.model.device)
        set_learning_rate(learner.optimizer, training.learning_rate, training.warmup_steps, step)
        try:
            batch, metrics = reft_step(
                learner, step_settings, step, [prompts[i] for i in indices], reward, clock.lap, max_skipped
            )
        except NotFiniteError as error:
            path = checkpoint_folder / f"not-finite-step{step}.safetensors"
            if world.is_main:
                save_batch(path, error.batch)
            raise NumericalError(
                f"{run.path}: step {step} has {error}; its batch is in {path}. Lower training.learning_rate or use a "
                "correction with bounded weights"
            ) from None
        refresh_engine(learner)
        clock.lap("update")
        row = step_row(step, batch, metrics, learner.optimizer.param_groups[0]["lr"], clock.slowest(world))
        del batch  # or its rollout would be in memory beside the next one
        for alarm in step_alarms(row, training.alarms):
            log(f"alarm: step {step}: {alarm['quantity']} is {alarm['value']:.3g}, {alarm['limit']}")
        seconds = time.perf_counter() - started
        progress = TrainingState(step, seconds, [*progress.metrics, row])
        if step % training.checkpoint_every == 0 or step == training.steps:
            save(progress)
            saved = step
        report(row, seconds / step * (training.steps - step))
    if adapter is not None:
        adapter.merge_and_unload()
    return progress


def start_learner(
    policy: Policy,
    training: Training,
    objective: Objective,
    seed: int,
    world: World = SINGLE_PROCESS,
    influence: Tensor | None = None,
    make_engine: Callable[[Policy], Sampler] = TorchSampler,
) -> tuple[Learner, PeftModel | None]:
    """What a run begins with: the learner, with a copy of the policy as reference if the objective has a KL term, and
    the adapter that was put into the policy's model, if the settings ask for one.
    """
    # A copy, since the model is about to change.
    reference = copy.deepcopy(policy.model).requires_grad_(False) if objective.kl_coefficient else None
    adapter = add_adapter(policy.model, training.lora, derive_seed("adapter", seed)) if training.lora else None
    return make_learner(policy, training, objective, reference, world, influence, make_engine), adapter


def make_learner(
    policy: Policy,
    training: Training,
    objective: Objective,
    reference: PreTrainedModel | None = None,
    world: World = SINGLE_PROCESS,
    influence: Tensor | None = None,
    make_engine: Callable[[Policy], Sampler] = TorchSampler,
) -> Learner:
    """What is trained: the policy's model, or a sharded copy, of which the policy's model becomes a replica.

    The engine is made last: the copies before it need the memory for a moment.
    """
    if training.gradient_checkpointing:
        enable_activation_checkpointing(policy.model)
    sharded = training.sharding and world.size > 1
    target = sharded_copy(policy.model, training.dtype, world) if sharded else policy.model
    optimizer = make_optimizer(target, training.learning_rate, training.weight_decay)
    return Learner(make_engine(policy), target, optimizer, objective, reference, world, influence)


def refresh_engine(learner: Learner) -> None:
    """Let the next rollout have the target's weights: those of a sharded target go to the policy's model first."""
    if learner.target is not learner.policy.model:
        copy_weights(learner.target, learner.policy.model)
    learner.engine.refresh()


def make_objective(run: Run, params: Mapping[str, float], training: Training) -> Objective:
    """The switches of the loss as the config sets them; the clip of the update for corrections that take it."""
    clips = correction_named(run.correction).clip != "own"
    return Objective(
        correction=run.correction,
        params=params,
        normalisation=training.normalisation,
        advantage_baseline=training.advantage_baseline,
        advantage_std=training.advantage_std,
        update_clip_low=training.update_clip_low if clips else None,
        update_clip_high=training.update_clip_high if clips else None,
        kl_coefficient=training.kl_coefficient,
    )


def make_step_settings(run: Run, training: Training) -> StepSettings:
    """What a step needs of the config."""
    return StepSettings(
        strategy=run.strategy,
        skip_percent=run.skip,
        border=training.border,
        sampling=training,
        group_size=training.completions_per_problem,
        max_new_tokens=training.max_new_tokens,
        dtype=training.dtype,
        updates=training.updates_per_rollout,
        problems_per_micro_batch=training.problems_per_micro_batch,
        max_grad_norm=training.max_grad_norm,
        seed=run.seed,
    )


class PhaseClock:
    """Seconds of the phases of a step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = now(device)
        self._seconds: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        """End the phase that began at the last lap."""
        before, self._last = self._last, now(self._device)
        self._seconds[phase] = self._last - before

    def slowest(self, world: World) -> dict[str, float]:
        """Seconds of each phase in the process that took longest."""
        of_ranks = world.all_gather(self._seconds)
        return {phase: max(seconds[phase] for seconds in of_ranks) for phase in self._seconds}
