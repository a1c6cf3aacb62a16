"""One reinforced fine-tuning run. The baseline ReFT is the run with skip 0; there is no second trainer.

A step: draw layers -> the view of the target without them writes G completions a problem -> grade -> advantages per
group -> log pi of the same tokens under the full target -> corrected loss -> one update of the target.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.config import Training
from nested_reft.config.jobs import TrainSettings
from nested_reft.core.advantages import group_advantages
from nested_reft.core.corrections import check_parameters
from nested_reft.core.diagnostics import off_policy_diagnostics
from nested_reft.core.loss import policy_loss, token_scale
from nested_reft.core.rollout import Rollout, completion_logp, sample_completions
from nested_reft.core.skipping import decoder_layers, draw_skipped_layers, nested_view
from nested_reft.seeding import derive_seed
from nested_reft.tasks.grading import grade
from nested_reft.tasks.policy import Policy
from nested_reft.tasks.prompts import encode_prompts, left_pad
from nested_reft.tasks.records import Problem
from nested_reft.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint


class NumericalError(RuntimeError):
    """The loss or its gradient is not finite; the message names the step and what to try."""


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
) -> TrainingState:
    """Train `policy.model` in place, from the last checkpoint if there is one, and return the run's metrics.

    `report` is called after each step with the step's metrics and the seconds that are left by the pace so far; `log`
    is told whether the run continues or starts anew.
    """
    training, run = settings.training, settings.run
    correction, params = run.correction, check_parameters(run.correction, settings.params.given())
    model = policy.model
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, betas=(0.9, 0.99), weight_decay=training.weight_decay
    )
    prompts = encode_prompts(
        [problem.question for problem in problems], settings.prompt, policy.tokenizer, training.max_prompt_tokens
    )
    found, reason = load_checkpoint(checkpoint_folder, settings.key, model, optimizer)
    progress = found or TrainingState(0, 0.0, [])
    log(f"continues after step {found.step}" if found else f"starts at step 1: {reason}")
    started = time.perf_counter() - progress.seconds

    for step in range(progress.step + 1, training.steps + 1):
        indices = batch_indices(step, training.problems_per_step, len(problems), run.seed)
        clock = _Clock(model.device)
        with compute_dtype(model, training):
            skipped, rollout = nested_rollout(policy, [prompts[i] for i in indices], training, run.skip, run.seed, step)
        rollout_seconds = clock.lap()
        rewards = grade_rollout(policy, rollout, [problems[i] for i in indices])
        reward_seconds = clock.lap()
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * min(1.0, step / (training.warmup_steps + 1))
        optimizer.zero_grad(set_to_none=True)
        with compute_dtype(model, training):
            loss, diagnostics = accumulate_gradient(policy, rollout, rewards, training, correction, params)
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm).item()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise NumericalError(
                f"{run.path}: step {step} has loss {loss} and gradient norm {grad_norm}; "
                "lower training.learning_rate or use a correction with bounded weights"
            )
        optimizer.step()
        update_seconds = clock.lap()

        num_tokens = int(rollout.mask.sum())
        row = {
            "step": step,
            "reward": rewards.mean().item(),
            "reward_std": rewards.std().item(),
            "completion_length": num_tokens / len(rollout.mask),
            "skipped_layers": list(skipped),
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": optimizer.param_groups[0]["lr"],
            **diagnostics,
            "rollout_seconds": rollout_seconds,
            "reward_seconds": reward_seconds,
            "update_seconds": update_seconds,
            "rollout_tokens_per_s": num_tokens / rollout_seconds,
            "tokens_per_s": num_tokens / (rollout_seconds + reward_seconds + update_seconds),
        }
        seconds = time.perf_counter() - started
        progress = TrainingState(step, seconds, [*progress.metrics, row])
        if step % training.checkpoint_every == 0 or step == training.steps:
            save_checkpoint(checkpoint_folder, settings.key, model, optimizer, progress)
        report(row, seconds / step * (training.steps - step))
    return progress


def compute_dtype(model: PreTrainedModel, training: Training) -> torch.autocast:
    """Matrix products in `training.dtype`; the weights stay float32, as an update of 1e-6 is lost in bfloat16."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=training.dtype == "bfloat16")


def nested_rollout(
    policy: Policy, prompts: Sequence[list[int]], training: Training, skip: int, seed: int, step: int
) -> tuple[tuple[int, ...], Rollout]:
    """The layers drawn for this batch, and the completions that the view without them wrote."""
    layer_generator = torch.Generator().manual_seed(derive_seed("layers", seed, step))
    num_layers = len(decoder_layers(policy.model))
    skipped = draw_skipped_layers(num_layers, skip, training.border, layer_generator)
    device = policy.model.device
    prompt_ids, prompt_mask = left_pad(list(prompts), policy.pad_id)
    rollout = sample_completions(
        nested_view(policy.model, skipped),
        prompt_ids.to(device),
        prompt_mask.to(device),
        group_size=training.completions_per_problem,
        max_new_tokens=training.max_new_tokens,
        temperature=training.temperature,
        end_ids=policy.end_ids,
        pad_id=policy.pad_id,
        generator=torch.Generator(device).manual_seed(derive_seed("rollout", seed, step)),
    )
    return skipped, rollout


def grade_rollout(policy: Policy, rollout: Rollout, problems: Sequence[Problem]) -> Tensor:
    """The verifiable reward of each completion, 1 for the right answer and 0 otherwise: (P, G) on the CPU."""
    responses = policy.responses(rollout)
    group = rollout.group_size
    rewards = [float(grade(text, problems[row // group].answer)) for row, text in enumerate(responses)]
    return torch.tensor(rewards).view(len(problems), group)


def accumulate_gradient(
    policy: Policy, rollout: Rollout, rewards: Tensor, training: Training, correction: str, params: dict[str, float]
) -> tuple[float, dict[str, float]]:
    """Add the gradient of the batch's loss to the model's; returns the loss and the diagnostics of the whole batch.

    The micro-batches are whole groups; their gradients add up to that of the batch, whatever their size. The loss is
    nan, and the gradient not to be used, where a log-probability is not finite.
    """
    advantages = group_advantages(
        rewards, baseline=training.advantage_baseline, scale_by_std=training.advantage_std
    ).flatten()  # (B,)
    advantages = advantages.to(rollout.tokens.device)
    scale = token_scale(rollout.mask, training.normalisation, training.max_new_tokens)  # (B, 1)
    num_prompts, group = len(rollout.prompt_ids), rollout.group_size
    size = training.problems_per_micro_batch or num_prompts
    total, logps, weights = 0.0, [], []
    for first in range(0, num_prompts, size):
        last = min(first + size, num_prompts)
        part, rows = rollout.groups(first, last), slice(first * group, last * group)
        logp = completion_logp(policy.model, part, training.temperature)  # (b, T)
        if not (torch.isfinite(logp).all() and torch.isfinite(part.logp).all()):
            return math.nan, {}  # the model computes no numbers any more; the caller names step and remedy
        loss, weight_metrics = policy_loss(
            logp, part.logp, part.mask, advantages[rows], scale[rows], correction=correction, params=params
        )
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
        logps.append(logp.detach())
        weights.append(weight_metrics)
    diagnostics = off_policy_diagnostics(torch.cat(logps), rollout.logp, rollout.mask)
    diagnostics["weight_max"] = max(metrics["weight_max"] for metrics in weights)
    return total, diagnostics


def write_metrics(path: Path, metrics: Sequence[dict[str, Any]]) -> None:
    """One JSON object a step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in metrics), encoding="utf-8")


class _Clock:
    """Seconds between laps; on a GPU a lap waits for the work that was queued."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = self._now()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def lap(self) -> float:
        now = self._now()
        elapsed, self._last = now - self._last, now
        return elapsed
