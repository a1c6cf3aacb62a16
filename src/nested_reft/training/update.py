"""One rollout's update of the target: the gradient of the corrected loss, in micro-batches, once or several times."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.config import Run, Training
from nested_reft.config.method import CorrectionParams
from nested_reft.core.diagnostics import off_policy_diagnostics
from nested_reft.core.logprobs import completion_logp
from nested_reft.core.loss import Objective, policy_loss, token_scale
from nested_reft.core.rollout import Rollout
from nested_reft.training.ranks import ALONE, Ranks
from nested_reft.training.sharding import is_sharded, whole


@dataclass(frozen=True)
class Update:
    """What a step's updates came to: means over them, and diagnostics of the target before the first."""

    loss: float
    grad_norm: float
    metrics: dict[str, float]


def make_objective(run: Run, params: CorrectionParams, training: Training) -> Objective:
    """The switches of the loss as the config sets them."""
    return Objective(
        correction=run.correction,
        params=params.given(),
        normalisation=training.normalisation,
        baseline=training.advantage_baseline,
        scale_by_std=training.advantage_std,
        clip_low=training.update_clip_low,
        clip_high=training.update_clip_high,
        kl_coefficient=training.kl_coefficient,
    )


def make_optimizer(model: PreTrainedModel, training: Training, *, fused: bool | None = None) -> torch.optim.AdamW:
    """AdamW as the config sets it; `fused` as torch has it."""
    return torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=training.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=training.weight_decay,
        fused=fused,
    )


def warm_up(training: Training, step: int) -> float:
    """The share of the learning rate that step `step` (from 1) has: it rises in equal parts, then stays 1."""
    return min(1.0, step / (training.warmup_steps + 1))


def set_learning_rate(optimizer: torch.optim.Optimizer, training: Training, step: int) -> None:
    """The learning rate of a step, from 1."""
    for group in optimizer.param_groups:
        group["lr"] = training.learning_rate * warm_up(training, step)


def update_policy(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    rewards: Tensor,
    training: Training,
    objective: Objective,
    reference: PreTrainedModel | None,
    ranks: Ranks = ALONE,
) -> Update:
    """`training.updates_per_rollout` updates of `model` on one rollout with rewards (P, G), the same on all ranks.

    Stops before an update whose loss or gradient is not finite, and returns these: the caller decides what to say.
    """
    logp_reference = None
    if reference is not None:
        with torch.no_grad():
            own = [
                completion_logp(reference, part, training.temperature) for part, _ in _parts(rollout, training, ranks)
            ]
        logp_reference = _joined(own, ranks)
    logp_before: Tensor | None = None
    diagnostics: dict[str, float] = {}
    sums: dict[str, float] = defaultdict(float)
    for _ in range(training.updates_per_rollout):
        optimizer.zero_grad(set_to_none=True)
        loss, logp, metrics = accumulate_gradient(
            model, rollout, rewards, training, objective, logp_before=logp_before, logp_reference=logp_reference,
            ranks=ranks,
        )  # fmt: skip
        grad_norm = whole(torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)).item()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return Update(loss, grad_norm, {})
        if logp_before is None:
            logp_before, diagnostics = logp, off_policy_diagnostics(logp, rollout.logp, rollout.mask)
        optimizer.step()
        for name, value in {"loss": loss, "grad_norm": grad_norm, **metrics}.items():
            sums[name] += value / training.updates_per_rollout
    return Update(sums.pop("loss"), sums.pop("grad_norm"), {**diagnostics, **sums})


def accumulate_gradient(
    model: PreTrainedModel,
    rollout: Rollout,
    rewards: Tensor,
    training: Training,
    objective: Objective,
    *,
    logp_before: Tensor | None = None,
    logp_reference: Tensor | None = None,
    ranks: Ranks = ALONE,
) -> tuple[float, Tensor, dict[str, float]]:
    """Add the gradient of the batch's loss to the model's; returns loss, log pi (B, T) and the loss's metrics.

    The micro-batches are whole groups; their gradients add up to that of the batch, whatever their size and whichever
    rank computes them. The loss is nan, and the gradient not to be used, where a log-probability is not finite.
    """
    sizes = [rows.stop - rows.start for rank in range(ranks.size) for _, rows in _parts(rollout, training, ranks, rank)]
    scale = token_scale(rollout.mask, objective.normalisation, training.max_new_tokens, sizes)  # (B, 1)
    total, logps = 0.0, []
    means: dict[str, float] = defaultdict(float)
    num_tokens = int(rollout.mask.sum())
    for part, rows in _parts(rollout, training, ranks):
        logp = completion_logp(model, part, training.temperature)  # (b, T)
        if ranks.any(not (torch.isfinite(logp).all() and torch.isfinite(part.logp).all())):
            return math.nan, logp.detach(), {}  # the model computes no numbers any more
        loss, metrics = policy_loss(
            objective, logp, part.logp, part.mask, rewards.flatten()[rows].view(-1, rollout.group_size),
            max_new_tokens=training.max_new_tokens, scale=scale[rows],
            logp_before=None if logp_before is None else logp_before[rows],
            logp_reference=None if logp_reference is None else logp_reference[rows],
        )  # fmt: skip
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
        logps.append(logp.detach())
        largest = max(means["weight_max"], metrics.pop("weight_max"))
        for name, value in metrics.items():
            means[name] += value * int(part.mask.sum()) / num_tokens
        means["weight_max"] = largest
    if not is_sharded(model):  # or the backward pass has added them up
        ranks.add_up(parameter.grad for parameter in model.parameters() if parameter.grad is not None)
    of_ranks = ranks.gather((total, dict(means)))
    largest = max(metrics["weight_max"] for _, metrics in of_ranks)
    means = {name: sum(metrics[name] for _, metrics in of_ranks) for name in means}
    return sum(loss for loss, _ in of_ranks), _joined(logps, ranks), {**means, "weight_max": largest}


def _joined(parts: list[Tensor], ranks: Ranks) -> Tensor:
    """Rows (B, T) of the whole batch, of those of this rank's micro-batches."""
    own = torch.cat(parts)
    return torch.cat(ranks.gather(own.cpu())).to(own.device) if ranks.size > 1 else own


def _parts(
    rollout: Rollout, training: Training, ranks: Ranks, rank: int | None = None
) -> Iterator[tuple[Rollout, slice]]:
    """The micro-batches of a rank (None: this one), each whole groups, and which of the batch's rows they are."""
    share, group = ranks.share(len(rollout.prompt_ids), rank), rollout.group_size
    size = training.problems_per_micro_batch or share.stop - share.start
    for first in range(share.start, share.stop, size):
        last = min(first + size, share.stop)
        yield rollout.groups(first, last), slice(first * group, last * group)
