"""The processes that train one run together, as torchrun or `accelerate launch` starts them.

Every process has the whole model (or, with `sharding`, its shard of it), samples the completions of its share of a
batch's problems, and computes their part of the gradient; the parts are summed. All see the whole batch, so each step
is that of a single process, up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from nested_reft.core.rollout import Rollout
from nested_reft.runtime.errors import UserError

T = TypeVar("T")


class WorldError(UserError):
    """The processes cannot train together; the message is for the user."""


@dataclass(frozen=True)
class World:
    """This process's rank among `size` processes; by default a single process."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def share(self, count: int, rank: int | None = None) -> slice:
        """Which of `count` problems a rank (None: this one) takes. Raises WorldError if the shares are not equal."""
        if count % self.size:
            raise WorldError(
                f"training.problems_per_step: {count} problems cannot be shared evenly by {self.size} processes; "
                "set a multiple"
            )
        own, number = count // self.size, self.rank if rank is None else rank
        return slice(number * own, (number + 1) * own)

    def all_gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order. Tensors in them must be on the CPU."""
        values: list[T] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        """A block that all ranks enter and that has no collective: if it raises on one rank, it raises on all.

        Otherwise the others would wait for this rank in the next collective. A rank that raised keeps its own error;
        the others raise that of the first rank that did.
        """
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            own = error
        text = f"process {self.rank} ended with {type(own).__name__}: {own}"
        errors = self.all_gather(own if own is None or isinstance(own, UserError) else WorldError(text))
        for found in (own, *errors):
            if found is not None:
                raise found

    def from_main(self, make: Callable[[], T]) -> T:
        """What the main rank makes, on all of them. Its error is that of all."""
        made: list[T] = []
        with self.raise_on_all_ranks():
            if self.is_main:
                made = [make()]
        return self.all_gather(made)[0][0]

    def any(self, flag: bool) -> bool:
        """Whether it is true on any rank."""
        return any(self.all_gather(flag))

    def all_reduce_sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, which is the same to the last bit on all."""
        if self.size > 1:
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()


SINGLE_PROCESS = World()


def gather_batch(rollout: Rollout, rewards: Tensor, pad_id: int, world: World) -> tuple[Rollout, Tensor]:
    """Rollout and rewards (P, G) of the whole batch, from those of every process's share."""
    if world.size == 1:
        return rollout, rewards
    parts = world.all_gather((rollout.to("cpu"), rewards))
    whole = join_rollouts([part for part, _ in parts], pad_id)
    return whole.to(rollout.tokens.device), torch.cat([part for _, part in parts])


def join_rollouts(parts: Sequence[Rollout], pad_id: int) -> Rollout:
    """The rollout whose groups these are, in order. Their prompts are padded to one length already."""

    def joined(name: str, value: float) -> Tensor:
        """The parts' tensors (B, T, ...), padded to the size of the largest."""
        tensors = [getattr(part, name) for part in parts]
        sizes = [max(column) for column in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
        filled = []
        for tensor in tensors:
            missing = [(0, size - own) for size, own in zip(sizes, tensor.shape[1:], strict=True)]
            # F.pad counts dimensions from the last.
            filled.append(F.pad(tensor, [n for pair in reversed(missing) for n in pair], value=value))
        return torch.cat(filled)

    mask = joined("mask", False)
    support = None if parts[0].support is None else joined("support", -1)
    if support is not None:
        support[..., 0].masked_fill_(~mask, pad_id)
    prompt_ids, prompt_mask = (
        torch.cat([getattr(part, f"prompt_{name}") for part in parts]) for name in ("ids", "mask")
    )
    return Rollout(prompt_ids, prompt_mask, joined("tokens", pad_id), mask, joined("logp", 0), support)


def check_agreement(steps: Sequence[int], folder: Path) -> None:
    """Raises WorldError if the processes would continue from different steps."""
    if len(set(steps)) > 1:
        raise WorldError(
            f"{folder}: the processes find checkpoints of different steps ({', '.join(map(str, steps))}); put the "
            "results on a disk that all machines share"
        )


@contextmanager
def init_distributed(device: str) -> Iterator[World]:
    """The world that a launcher (torchrun, accelerate launch) announces by RANK and WORLD_SIZE; without one, a single
    process. On GPUs each process uses the one of its local rank.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
