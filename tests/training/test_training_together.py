"""An error of one rank before a collective is the error of all: none waits for the others. The ranks are threads."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import torch
from torch import nn

from nested_reft.runtime.files import StorageError
from nested_reft.training import checkpoint
from nested_reft.training.checkpoint import CheckpointKey, TrainingState, load_checkpoint, save_checkpoint
from nested_reft.training.world import World, WorldError

T = TypeVar("T")
KEY = CheckpointKey("key", "code")
RANK = threading.local()


@dataclass
class Meeting:
    """Where the threads exchange values; a rank that does not come breaks the barrier, after minutes."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2, timeout=300))
    values: dict[int, Any] = field(default_factory=dict)

    def gather(self, value: T) -> list[T]:
        self.values[RANK.number] = value
        self.barrier.wait()
        found = [self.values[rank] for rank in range(2)]
        self.barrier.wait()
        return found


@dataclass(frozen=True)
class Rank(World):
    meeting: Meeting = field(default_factory=Meeting)

    def all_gather(self, value: T) -> list[T]:
        return self.meeting.gather(value)


def on_both(monkeypatch: pytest.MonkeyPatch, work: Callable[[World], Any]) -> list[Any]:
    """What the work returns or raises on each of two ranks. Gathering a tensor is a collective, as with shards."""
    meeting, outcomes = Meeting(), dict[int, Any]()
    monkeypatch.setattr(checkpoint, "full_tensor", lambda tensor: meeting.gather(tensor)[RANK.number])

    def run(rank: int) -> None:
        RANK.number = rank
        try:
            outcomes[rank] = work(Rank(rank, 2, meeting))
        except Exception as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [outcomes[rank] for rank in range(2)]


def save(folder: Path, step: int, world: World) -> None:
    torch.manual_seed(step)
    model = nn.Linear(2, 2)
    save_checkpoint(folder, KEY, model, torch.optim.SGD(model.parameters()), TrainingState(step, 1.0, []), world)


def load(folder: Path, world: World) -> tuple[TrainingState | None, list[str]]:
    model, lines = nn.Linear(2, 2), list[str]()
    found = load_checkpoint(folder, KEY, model, torch.optim.SGD(model.parameters()), lines.append, world)
    return found, lines


def only_on(rank: int, plain: Callable[..., T], other: Callable[..., T]) -> Callable[..., T]:
    return lambda *arguments: (other if RANK.number == rank else plain)(*arguments)


def test_a_full_disk_of_the_main_rank_stops_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    first, second = on_both(monkeypatch, lambda world: save(tmp_path, 1, world))
    assert isinstance(first, StorageError)
    assert isinstance(second, StorageError)
    assert str(first) == str(second)
    assert "the checkpoint of step 1 needs 0.0 MB" in str(first)


def test_a_failed_write_of_the_main_rank_stops_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", refuse)
    outcomes = on_both(monkeypatch, lambda world: save(tmp_path, 1, world))
    assert all(isinstance(error, StorageError) and "No space left" in str(error) for error in outcomes), outcomes


def test_a_checkpoint_that_one_rank_cannot_use_is_used_by_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        on_both(monkeypatch, lambda world, step=step: save(tmp_path, step, world))
    plain = checkpoint._sha256
    damaged = only_on(1, plain, lambda path: "other" if "00002" in path.name else plain(path))
    monkeypatch.setattr(checkpoint, "_sha256", damaged)
    for found, lines in on_both(monkeypatch, lambda world: load(tmp_path, world)):
        assert found.step == 1
        assert "step00000002.safetensors is not used: it is damaged (its checksum differs)" in lines[0]
        assert lines[1:] == ["continues after step 1"]


def test_ranks_that_see_different_checkpoints_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_both(monkeypatch, lambda world: save(tmp_path / "0", 1, world))
    outcomes = on_both(monkeypatch, lambda world: load(tmp_path / str(world.rank), world))
    assert all(isinstance(error, WorldError) and "different steps (1, 0)" in str(error) for error in outcomes), outcomes


@pytest.mark.parametrize("rank", [0, 1])
def test_an_unforeseen_error_keeps_its_type_where_it_came_from(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(world: World) -> None:
        with world.raise_on_all_ranks():
            1 / (world.rank - rank)

    outcomes = on_both(monkeypatch, work)
    assert isinstance(outcomes[rank], ZeroDivisionError)
    assert isinstance(outcomes[1 - rank], WorldError)
    assert str(outcomes[1 - rank]) == f"process {rank} ended with ZeroDivisionError: division by zero"


def test_without_an_error_all_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(world: World) -> int:
        with world.raise_on_all_ranks():
            value = 3 + world.rank
        return value

    assert on_both(monkeypatch, work) == [3, 4]
