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
from nested_reft.core.rollout import Rollout
from nested_reft.core.skipping import decoder_layers, nested_view
from nested_reft.core.strategies import choose_skipped_layers, layer_influence
from nested_reft.seeding import derive_seed
from nested_reft.tasks.policy import Policy, compute_dtype
from nested_reft.tasks.prompts import encode_prompts
from nested_reft.tasks.records import Problem
from nested_reft.tasks.rewards import rollout_rewards
from nested_reft.timing import now
from nested_reft.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from nested_reft.training.stopping import StoppedError
from nested_reft.training.update import make_objective, make_optimizer, set_learning_rate, update_policy


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
) -> TrainingState:
    """Train `policy.model` in place, from the last checkpoint if there is one, and return the run's metrics.

    `report` is called after each step with the step's metrics and the seconds that are left by the pace so far; `log`
    is told whether the run continues or starts anew, and of alarms. `stop` is asked before each step: if so, the steps
    that are not saved yet are, and StoppedError is raised. Raises NumericalError, and StorageError for a checkpoint
    that cannot be written.
    """
    training, run = settings.training, settings.run
    objective = make_objective(run, settings.params, training)
    model = policy.model
    # The policy that the run started from; a copy, since the model is about to change.
    reference = copy.deepcopy(model).requires_grad_(False) if training.kl_coefficient else None
    optimizer = make_optimizer(model, training)
    prompts = encode_prompts(
        [problem.question for problem in problems], settings.prompt, policy.tokenizer, training.max_prompt_tokens
    )
    found = load_checkpoint(checkpoint_folder, settings.key, model, optimizer, log)
    progress = found or TrainingState(0, 0.0, [])
    saved = progress.step
    started = time.perf_counter() - progress.seconds

    for step in range(progress.step + 1, training.steps + 1):
        if stop():
            if saved < progress.step:
                save_checkpoint(checkpoint_folder, settings.key, model, optimizer, progress)
            raise StoppedError(
                f"{run.path}: stopped after step {progress.step} of {training.steps}; call again to go on"
            )
        indices = batch_indices(step, training.problems_per_step, len(problems), run.seed)
        clock = _Clock(model.device)
        with compute_dtype(model, training.dtype):
            skipped, rollout = nested_rollout(policy, [prompts[i] for i in indices], training, run, step)
        rollout_seconds = clock.lap()
        rewards = rollout_rewards(policy, rollout, [problems[i] for i in indices])
        reward_seconds = clock.lap()
        set_learning_rate(optimizer, training, step)
        with compute_dtype(model, training.dtype):
            update = update_policy(model, optimizer, rollout, rewards, training, objective, reference)
        if not (math.isfinite(update.loss) and math.isfinite(update.grad_norm)):
            path = checkpoint_folder / f"not-finite-step{step}.safetensors"
            save_batch(path, rollout, rewards, skipped)
            raise NumericalError(
                f"{run.path}: step {step} has loss {update.loss} and gradient norm {update.grad_norm}; its batch is in "
                f"{path}. Lower training.learning_rate or use a correction with bounded weights"
            )
        update_seconds = clock.lap()

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
            save_checkpoint(checkpoint_folder, settings.key, model, optimizer, progress)
            saved = step
        report(row, seconds / step * (training.steps - step))
    return progress


def step_alarms(row: dict[str, Any], training: Training) -> list[dict[str, Any]]:
    """The alarms of one step, for log and manifest, from its row of metrics: step, quantity, value, limit."""
    limits = {"ess": f"below {training.alarms.ess_below}", "kl_k3": f"above {training.alarms.kl_above}"}
    found = alarms(row, ess_below=training.alarms.ess_below, kl_above=training.alarms.kl_above)
    return [
        {"step": row["step"], "quantity": name, "value": value, "limit": limits[name]} for name, value in found.items()
    ]


def nested_rollout(
    policy: Policy, prompts: Sequence[list[int]], training: Training, run: Run, step: int
) -> tuple[tuple[int, ...], Rollout]:
    """The layers left out for this batch, and the completions that the view without them wrote."""
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
    rollout = policy.sample(
        nested_view(policy.model, skipped),
        prompt_ids,
        prompt_mask,
        training,
        group_size=training.completions_per_problem,
        max_new_tokens=training.max_new_tokens,
        seed=derive_seed("rollout", run.seed, step),
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
