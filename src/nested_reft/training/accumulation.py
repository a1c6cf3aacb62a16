"""The bookkeeping of a step's updates: micro-batches, their sums over all processes, and what is logged.

The micro-batches are whole groups. Their gradients add up to the gradient of the batch, whatever their size and
whichever process computes them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.core.diagnostics import off_policy_diagnostics
from nested_reft.core.loss import Objective, token_scale
from nested_reft.core.rollout import Rollout
from nested_reft.engine.logp import completion_logp
from nested_reft.rollouts.policy import compute_dtype
from nested_reft.training.sharding import full_tensor, is_sharded
from nested_reft.training.world import World


@dataclass(frozen=True)
class Batch:
    """A step's rollout, the layers that its behaviour policy left out, and the rewards (P, G); of all processes."""

    skipped: tuple[int, ...]
    rollout: Rollout
    rewards: Tensor


class NotFiniteError(Exception):
    """The loss or the gradient of a batch is not a finite number; its update must not be made."""

    def __init__(self, batch: Batch, loss: float, grad_norm: float) -> None:
        super().__init__(f"loss {loss} and gradient norm {grad_norm}")
        self.batch = batch


@dataclass(frozen=True)
class MicroBatch:
    """Some groups of a batch: their rollout, which of the batch's problems and rows they are, their rows (b, 1) of the
    whole batch's `token_scale`, and which of the groups (p,) the loss depends on.
    """

    rollout: Rollout
    problems: slice
    rows: slice
    scale: Tensor
    with_gradient: Tensor

    def of(self, tensor: Tensor | None) -> Tensor | None:
        """These rows of a tensor (B, T) of the whole batch."""
        return None if tensor is None else tensor[self.rows]


def micro_batches(
    rollout: Rollout,
    advantages: Tensor,
    objective: Objective,
    max_new_tokens: int,
    problems_per_micro_batch: int | None,
    world: World,
) -> list[MicroBatch]:
    """This process's micro-batches, of a rollout with advantages (P, G); None: its whole share at once."""
    num_problems, group = len(rollout.prompt_ids), rollout.group_size

    def bounds(rank: int | None = None) -> list[tuple[int, int]]:
        share = world.share(num_problems, rank)
        size = problems_per_micro_batch or share.stop - share.start
        return [(first, min(first + size, share.stop)) for first in range(share.start, share.stop, size)]

    sizes = [(last - first) * group for rank in range(world.size) for first, last in bounds(rank)]
    scale = token_scale(rollout.mask, objective.normalisation, max_new_tokens, sizes)  # (B, 1)
    with_gradient, parts = groups_with_gradient(advantages, objective, world), []
    for first, last in bounds():
        problems, rows = slice(first, last), slice(first * group, last * group)
        parts.append(MicroBatch(rollout.groups(problems), problems, rows, scale[rows], with_gradient[problems]))
    return parts


def groups_with_gradient(advantages: Tensor, objective: Objective, world: World) -> Tensor:
    """Which groups (P,) the loss depends on, from advantages (P, G).

    A group whose completions all have the same reward has advantages of exactly 0, and without a KL term so has its
    gradient: it needs no backward pass. One group is always among them, since a gradient of 0 is still a step of the
    optimizer. Several processes must run the same passes: there all groups are.
    """
    if world.size > 1 or objective.kl_coefficient:
        return torch.ones(len(advantages), dtype=torch.bool)
    found = advantages.ne(0).any(-1).cpu()
    found[0] |= not found.any()
    return found


def target_logp(model: PreTrainedModel, part: MicroBatch, temperature: float, dtype: str) -> Tensor:
    """`completion_logp` (b, T) of a micro-batch, differentiable in the rows that the loss depends on only."""
    rollout, with_gradient = part.rollout, part.with_gradient
    if with_gradient.all():
        return logp_in(dtype, model, rollout, temperature)
    with torch.no_grad():
        without = logp_in(dtype, model, rollout.groups(~with_gradient), temperature)
    rows = with_gradient.repeat_interleave(rollout.group_size).to(without.device)
    logp = without.new_zeros(rollout.mask.shape)
    logp[~rows] = without
    if with_gradient.any():
        logp[rows] = logp_in(dtype, model, rollout.groups(with_gradient), temperature)
    return logp


def logp_in(dtype: str, model: PreTrainedModel, rollout: Rollout, temperature: float) -> Tensor:
    """`completion_logp` with matrix products in `dtype`.

    The context is that of one forward pass: autocast would use the weights that it cast in an earlier one again, from
    before an update, or without their gradient. A sharded model's products have its own dtype (`sharding.shard`).
    """
    with nullcontext() if is_sharded(model) else compute_dtype(model, dtype):
        return completion_logp(model, rollout, temperature)


class Accumulation:
    """What the micro-batches of a batch's updates add up to, over all processes.

    logp_old: (B, T), log pi before the first update, None until then; metrics: means over the updates, and diagnostics
    of the target before the first.
    """

    def __init__(self, batch: Batch, updates: int, world: World) -> None:
        self.batch, self._updates, self._world = batch, updates, world
        self.logp_old: Tensor | None = None
        self.metrics: dict[str, float] = defaultdict(float)
        self._num_tokens = int(batch.rollout.mask.sum())
        self._start()

    def _start(self) -> None:
        self._loss, self._logps = 0.0, list[Tensor]()
        self._means: dict[str, float] = defaultdict(float)

    def check(self, logp: Tensor, part: MicroBatch) -> None:
        """Raise NotFiniteError if log pi or log b is not finite on any process: the model no longer gives numbers."""
        if self._world.any(not (logp.isfinite().all() and part.rollout.logp.isfinite().all())):
            raise NotFiniteError(self.batch, math.nan, math.nan)

    def add(self, part: MicroBatch, loss: Tensor, logp: Tensor, metrics: dict[str, float]) -> None:
        """Take in a micro-batch whose gradient has been added to the model's."""
        self._loss += loss.item()
        if self.logp_old is None:
            self._logps.append(logp.detach())
        largest = max(self._means["weight_max"], metrics.pop("weight_max"))
        for name, value in metrics.items():
            self._means[name] += value * int(part.rollout.mask.sum()) / self._num_tokens
        self._means["weight_max"] = largest

    def finish_update(self, grad_norm: float) -> None:
        """Close an update before it is made. Raises NotFiniteError if it must not be."""
        of_ranks = self._world.all_gather((self._loss, dict(self._means)))
        loss = sum(loss for loss, _ in of_ranks)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise NotFiniteError(self.batch, loss, grad_norm)
        means = {name: sum(metrics[name] for _, metrics in of_ranks) for name in self._means}
        means["weight_max"] = max(metrics["weight_max"] for _, metrics in of_ranks)
        if self.logp_old is None:
            self.logp_old = gather_rows(self._logps, self._world)
            self.metrics |= off_policy_diagnostics(self.logp_old, self.batch.rollout.logp, self.batch.rollout.mask)
        for name, value in {"loss": loss, "grad_norm": grad_norm, **means}.items():
            self.metrics[name] += value / self._updates
        self._start()


def clip_gradient(model: PreTrainedModel, max_norm: float, world: World) -> float:
    """Add up the gradients of all processes and scale them to a norm of at most `max_norm`; the norm before."""
    if not is_sharded(model):  # if it is, the backward pass has added them up already
        world.all_reduce_sum(parameter.grad for parameter in model.parameters() if parameter.grad is not None)
    return float(full_tensor(torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)).item())


@torch.no_grad()
def reference_logp(
    reference: PreTrainedModel | None, parts: list[MicroBatch], temperature: float, dtype: str, world: World
) -> Tensor | None:
    """log pi of the whole batch (B, T) under the reference; None without one."""
    if reference is None:
        return None
    return gather_rows([logp_in(dtype, reference, part.rollout, temperature) for part in parts], world)


def gather_rows(parts: list[Tensor], world: World) -> Tensor:
    """Rows (B, T) of the whole batch, from those of each process's micro-batches."""
    own = torch.cat(parts)
    return torch.cat(world.all_gather(own.cpu())).to(own.device) if world.size > 1 else own
