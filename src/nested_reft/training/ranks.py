"""The processes that train one run together, as torch's and accelerate's launchers start them.

Every rank has the whole model (or, with `sharding`, its shard of it), writes the completions of its share of a batch's
problems, and computes their part of the gradient; the parts are summed. All see the whole batch, so that each step is
the step that one process would make, up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class RanksError(RuntimeError):
    """The processes cannot train together; the message is for the user."""


@dataclass(frozen=True)
class Ranks:
    """This process's number among `size` of them; by itself it is alone."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes files and reports."""
        return self.rank == 0

    def share(self, count: int, rank: int | None = None) -> slice:
        """Which of `count` problems a rank (None: this one) takes; RanksError where they cannot be shared evenly."""
        if count % self.size:
            raise RanksError(
                f"training.problems_per_step: {count} problems cannot be shared evenly by {self.size} processes; "
                "set a multiple"
            )
        own, number = count // self.size, self.rank if rank is None else rank
        return slice(number * own, (number + 1) * own)

    def gather(self, value: T) -> list[T]:
        """The value of every rank, in their order. Tensors in it must be on the CPU."""
        values: list[T] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is true on any rank."""
        return any(self.gather(flag))

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, which is the same to the last bit on all."""
        if self.size > 1:
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()


ALONE = Ranks()


@contextmanager
def join_ranks(device: str) -> Iterator[Ranks]:
    """The ranks of a launcher (torchrun, accelerate launch), which sets RANK and WORLD_SIZE; without one, this alone.

    With a GPU each, the one of its number on the machine becomes the process's own.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
