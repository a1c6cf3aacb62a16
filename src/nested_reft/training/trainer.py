"""One reinforced fine-tuning run. The baseline ReFT is the run with skip 0; there is no second trainer.

A step: choose layers -> the view of the target without them writes G completions a problem -> grade -> advantages per
group -> log pi of the same tokens under the full target -> corrected loss -> one update of the target, or several.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from nested_reft.config import Run, Training
from nested_reft.config.jobs import TrainSettings
from nested_reft.core.diagnostics import alarms
from nested_reft.core.logprobs import recompute_activations
from nested_reft.core.rollout import Rollout, join_rollouts
from nested_reft.core.skipping import decoder_layers, nested_view
from nested_reft.core.strategies import choose_skipped_layers, layer_influence
from nested_reft.seeding import derive_seed
from nested_reft.tasks.policy import Policy, compute_dtype
from nested_reft.tasks.prompts import encode_prompts
from nested_reft.tasks.records import Problem
from nested_reft.tasks.rewards import rollout_rewards
from nested_reft.timing import now
from nested_reft.training.adapter import add_adapter
from nested_reft.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from nested_reft.training.ranks import ALONE, Ranks, RanksError
from nested_reft.training.sharding import copy_weights, sharded_copy
from nested_reft.training.stopping import StoppedError
from nested_reft.training.update import (
    make_objective,
    make_optimizer,
    set_learning_rate,
    update_policy,
)


class NumericalError(RuntimeError):
    """The loss or its gradient is not finite; the message names the step, the saved batch, and what to try."""


def batch_indices(step: int, batch_size: int, num_problems: int, seed: int) -> list[int]:
    """Which problems step `step` (from 1) uses: successive slices of permutations, a new one for each epoch.

    The order depends on the seed alone, so that runs of one seed see the same problems whatever their correction.
    """
    indices = []
    for position in range((step - 1) * batch_size, step * batch_size):
        epoch, offset = divmod(position, num_problems)
        generator = torch.Generator().manual_seed(derive_seed("order", seed, epoch))
        indices.append(int(torch.randperm(num_problems, generator=generator)[offset]))
    return indices


def train(
    settings: TrainSettings,
    policy: Policy,
    problems: Sequence[Problem],
    checkpoint_folder: Path,
    report: Callable[[dict[str, Any], float], None],
    log: Callable[[str], None],
    stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
) -> TrainingState:
    """Train `policy.model` in place, from the last checkpoint if there is one, and return the run's metrics.

    With several `ranks` each calls it, with the same arguments, and has the same model and metrics afterwards.
    `report` is called after each step with the step's metrics and the seconds that are left by the pace so far; `log`
    is told whether the run continues or starts anew, and of alarms. `stop` is asked before each step: if so, the steps
    that are not saved yet are, and StoppedError is raised. Raises NumericalError, StorageError for a checkpoint that
    cannot be written, and RanksError.
    """
    training, run = settings.training, settings.run
    if not ranks.leads:
        report, log = (lambda row, seconds_left: None), (lambda text: None)
    objective = make_objective(run, settings.params, training)
    # The policy that the run started from; a copy, since the model is about to change.
    reference = copy.deepcopy(policy.model).requires_grad_(False) if training.kl_coefficient else None
    adapter = add_adapter(policy.model, training.lora, derive_seed("adapter", run.seed)) if training.lora else None
    if training.gradient_checkpointing:
        recompute_activations(policy.model)
    # What is trained, and what policy.model is a replica of where it is in shards.
    sharded = training.sharding and ranks.size > 1
    model = sharded_copy(policy.model, training.dtype, ranks) if sharded else policy.model
    optimizer = make_optimizer(model, training)
    prompts = encode_prompts(
        [problem.question for problem in problems], settings.prompt, policy.tokenizer, training.max_prompt_tokens
    )
    found = load_checkpoint(checkpoint_folder, settings.key, model, optimizer, log)
    progress = found or TrainingState(0, 0.0, [])
    check_agreement(ranks.gather(progress.step), checkpoint_folder)
    if sharded:
        copy_weights(model, policy.model)
    saved = progress.step
    started = time.perf_counter() - progress.seconds

    for step in range(progress.step + 1, training.steps + 1):
        if ranks.any(stop()):
            if saved < progress.step:
                save_checkpoint(checkpoint_folder, settings.key, model, optimizer, progress, ranks)
            raise StoppedError(
                f"{run.path}: stopped after step {progress.step} of {training.steps}; call again to go on"
            )
        indices = batch_indices(step, training.problems_per_step, len(problems), run.seed)
        share = ranks.share(len(indices))
        clock = _Clock(policy.model.device)
        with compute_dtype(policy.model, training.dtype):
            skipped, rollout = nested_rollout(policy, [prompts[i] for i in indices], training, run, step, share)
        rollout_seconds = clock.lap()
        rewards = rollout_rewards(policy, rollout, [problems[i] for i in indices[share]])
        reward_seconds = clock.lap()
        rollout, rewards = gather_batch(rollout, rewards, policy, ranks)
        set_learning_rate(optimizer, training, step)
        with compute_dtype(policy.model, training.dtype):
            update = update_policy(model, optimizer, rollout, rewards, training, objective, reference, ranks)
        if not (math.isfinite(update.loss) and math.isfinite(update.grad_norm)):
            path = checkpoint_folder / f"not-finite-step{step}.safetensors"
            if ranks.leads:
                save_batch(path, rollout, rewards, skipped)
            raise NumericalError(
                f"{run.path}: step {step} has loss {update.loss} and gradient norm {update.grad_norm}; its batch is in "
                f"{path}. Lower training.learning_rate or use a correction with bounded weights"
            )
        if sharded:
            copy_weights(model, policy.model)
        update_seconds = clock.lap()
        rollout_seconds, reward_seconds, update_seconds = (
            max(seconds)
            for seconds in zip(*ranks.gather((rollout_seconds, reward_seconds, update_seconds)), strict=True)
        )

        num_tokens = int(rollout.mask.sum())
        row = {
            "step": step,
            "reward": rewards.mean().item(),
            "reward_std": rewards.std().item(),
            "completion_length": num_tokens / len(rollout.mask),
            "skipped_layers": list(skipped),
            "loss": update.loss,
            "grad_norm": update.grad_norm,
            "learning_rate": optimizer.param_groups[0]["lr"],
            **update.metrics,
            "rollout_seconds": rollout_seconds,
            "reward_seconds": reward_seconds,
            "update_seconds": update_seconds,
            "rollout_tokens_per_s": num_tokens / rollout_seconds,
            "tokens_per_s": num_tokens / (rollout_seconds + reward_seconds + update_seconds),
        }
        for alarm in step_alarms(row, training):
            log(f"alarm: step {step}: {alarm['quantity']} is {alarm['value']:.3g}, {alarm['limit']}")
        seconds = time.perf_counter() - started
        progress = TrainingState(step, seconds, [*progress.metrics, row])
        if step % training.checkpoint_every == 0 or step == training.steps:
            save_checkpoint(checkpoint_folder, settings.key, model, optimizer, progress, ranks)
            saved = step
        report(row, seconds / step * (training.steps - step))
    if adapter is not None:
        adapter.merge_and_unload()
    return progress


def gather_batch(rollout: Rollout, rewards: Tensor, policy: Policy, ranks: Ranks) -> tuple[Rollout, Tensor]:
    """Rollout and rewards (P, G) of the whole batch, of those of every rank's share."""
    if ranks.size == 1:
        return rollout, rewards
    parts = ranks.gather((rollout.to("cpu"), rewards))
    whole = join_rollouts([part for part, _ in parts], policy.pad_id)
    return whole.to(rollout.tokens.device), torch.cat([part for _, part in parts])


def check_agreement(steps: Sequence[int], folder: Path) -> None:
    """RanksError where the processes would continue from different steps."""
    if len(set(steps)) > 1:
        raise RanksError(
            f"{folder}: the processes find checkpoints of different steps ({', '.join(map(str, steps))}); put the "
            "results on a disk that all machines share"
        )


def step_alarms(row: dict[str, Any], training: Training) -> list[dict[str, Any]]:
    """The alarms of one step, for log and manifest, from its row of metrics: step, quantity, value, limit."""
    limits = {"ess": f"below {training.alarms.ess_below}", "kl_k3": f"above {training.alarms.kl_above}"}
    found = alarms(row, ess_below=training.alarms.ess_below, kl_above=training.alarms.kl_above)
    return [
        {"step": row["step"], "quantity": name, "value": value, "limit": limits[name]} for name, value in found.items()
    ]


def nested_rollout(
    policy: Policy, prompts: Sequence[list[int]], training: Training, run: Run, step: int, share: slice | None = None
) -> tuple[tuple[int, ...], Rollout]:
    """The layers left out for this batch, and the completions that the view without them wrote for `share` of it."""
    prompt_ids, prompt_mask = policy.batch(prompts)
    skipped = choose_skipped_layers(
        run.strategy,
        len(decoder_layers(policy.model)),
        run.skip,
        training.border,
        batch_seed=derive_seed("layers", run.seed, step),
        run_seed=derive_seed("layers", run.seed),
        influence=lambda: layer_influence(policy.model, prompt_ids, prompt_mask),
    )
    share = share or slice(0, len(prompts))
    rollout = policy.sample(
        nested_view(policy.model, skipped).eval(),
        prompt_ids[share],
        prompt_mask[share],
        training,
        group_size=training.completions_per_problem,
        max_new_tokens=training.max_new_tokens,
        seed=derive_seed("rollout", run.seed, step),
        part=(share.start, len(prompts)),
    )
    return skipped, rollout


def save_batch(path: Path, rollout: Rollout, rewards: Tensor, skipped: Sequence[int]) -> None:
    """Write a rollout with its rewards (P, G), to look at: the fields of `Rollout` as tensors, layers as metadata."""
    fields = {name: value for name, value in vars(rollout).items() if value is not None} | {"rewards": rewards}
    tensors = {name: value.cpu().contiguous() for name, value in fields.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"skipped_layers": json.dumps(list(skipped))})


def write_metrics(path: Path, metrics: Sequence[dict[str, Any]]) -> None:
    """One JSON object a step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in metrics), encoding="utf-8")


class _Clock:
    """Seconds between laps."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = now(device)

    def lap(self) -> float:
        before, self._last = self._last, now(self._device)
        return self._last - before
