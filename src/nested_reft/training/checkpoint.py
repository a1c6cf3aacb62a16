"""Rolling checkpoints of a training run: the last steps that were saved, each with its checksum.

The folder is keyed by the hash of the run's settings, so that a changed setting starts over instead of continuing
another run, and it is not a declared output, so that Snakemake does not delete it before a rerun. Random draws need no
saved state: they are seeded by step (`runtime.seeding.derive_seed`).

A checkpoint is two files: `step00000010.safetensors` with weights, optimizer and the metrics so far, and
`step00000010.json` with its SHA-256, written after it. Each is written to a temporary file, flushed to disk and
renamed, so that a kill at any moment leaves what was complete before.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nested_reft.runtime.errors import UserError
from nested_reft.runtime.files import StorageError, check_space, replace_file
from nested_reft.training.sharding import full_tensor, shard_like
from nested_reft.training.world import World, check_agreement

LARGE = 2**30  # bytes


def num_kept(size: int) -> int:
    """How many checkpoints of so many bytes are kept: two, as a disk may damage the last; of large ones, one."""
    return 1 if size >= LARGE else 2


@dataclass(frozen=True)
class TrainingState:
    """How far a run is: the last finished step, the seconds it took so far, and the metrics of every step."""

    step: int
    seconds: float
    metrics: list[dict[str, Any]]


@dataclass(frozen=True)
class CheckpointKey:
    """Whose checkpoints these are: the hash of the run's settings, and the digest of the code that trains."""

    settings: str
    code: str


class BusyError(UserError):
    """Another process is training the run; the message is for the user."""


class _UnusableError(Exception):
    """Why one checkpoint is not continued."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Lock the run's folder; BusyError if another process holds it. A killed process releases it too."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"{folder}: another process is training this run; wait for it, or stop it and run again"
            ) from None
        for left in folder.glob("*.tmp"):  # of a process that was killed while it wrote
            left.unlink()
        yield


def save_checkpoint(
    folder: Path,
    key: CheckpointKey,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: TrainingState,
    world: World,
) -> None:
    """Write the state after a step and keep no more than `num_kept`; StorageError names the folder and the space.

    All ranks must call it; the main one writes, and an error of it is raised on all.
    """
    tensors = _trained_tensors(model) | _optimizer_tensors(model, optimizer)
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    with world.raise_on_all_ranks(), _storage_errors(folder, progress.step, size):
        if world.is_main:
            check_space(folder, size, f"the checkpoint of step {progress.step}")
    for name, value in tensors.items():
        full = full_tensor(value)  # a collective if the model is sharded
        if world.is_main:
            tensors[name] = full.cpu().contiguous()
    with world.raise_on_all_ranks(), _storage_errors(folder, progress.step, size):
        if world.is_main:
            _write(folder, key, tensors, progress, num_kept(size))


def load_checkpoint(
    folder: Path,
    key: CheckpointKey,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    log: Callable[[str], None],
    world: World,
) -> TrainingState | None:
    """Restore model and optimizer in place from the newest intact checkpoint; None if there is none.

    All ranks must call it, and a checkpoint that one of them cannot use is used by none. `log` is told why. Raises
    WorldError if the ranks see checkpoints of different steps.
    """
    paths = _checkpoints(folder)
    check_agreement(world.all_gather(_step(paths[0]) if paths else 0), folder)
    for name in world.all_gather([path.name for path in paths])[0]:
        reason = ""
        with world.raise_on_all_ranks():
            try:
                progress, tensors = _read(folder / name, key, model)
            except _UnusableError as error:
                reason = str(error)
        reasons = [found for found in world.all_gather(reason) if found]
        if reasons:
            log(f"{folder / name} is not used: {reasons[0]}")
            continue
        _restore(tensors, model, optimizer)
        log(f"continues after step {progress.step}")
        return progress
    log("starts at step 1: no checkpoint to continue from")
    return None


def remove_checkpoints(folder: Path) -> None:
    """Delete the run's folder once its final files exist."""
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _storage_errors(folder: Path, step: int, size: int) -> Iterator[None]:
    """Raise StorageError, with the space that the checkpoint needs, for what the disk refuses."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"{folder}: the checkpoint of step {step} cannot be written ({error}); it needs {size / 1e6:,.1f} MB. Make "
            "room or permit writing and run again: earlier checkpoints stay valid"
        ) from None


def _write(folder: Path, key: CheckpointKey, tensors: dict[str, Tensor], progress: TrainingState, kept: int) -> None:
    path = _path(folder, progress.step)
    metadata = {"seconds": repr(progress.seconds), "metrics": json.dumps(progress.metrics)}
    replace_file(path, lambda temporary: save_file(tensors, temporary, metadata))
    seal = {"key": key.settings, "code": key.code, "step": progress.step, "sha256": _sha256(path)}
    replace_file(path.with_suffix(".json"), lambda temporary: temporary.write_text(json.dumps(seal)))
    # Checkpoints of later steps were not usable, or this step would not have been computed again.
    earlier = [old for old in _checkpoints(folder) if old <= path]
    for old in {*_checkpoints(folder)} - {*earlier[:kept]}:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink(missing_ok=True)


def _read(path: Path, key: CheckpointKey, model: nn.Module) -> tuple[TrainingState, dict[str, Tensor]]:
    """What a checkpoint holds; _UnusableError says why it is not used."""
    try:
        seal = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        step, digest = seal["step"], seal["sha256"]
    except FileNotFoundError:
        raise _UnusableError("it was cut off while it was written") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _UnusableError(f"{path.with_suffix('.json').name} is damaged ({error})") from None
    if seal.get("key") != key.settings:
        raise _UnusableError("it belongs to other settings")
    if seal.get("code") != key.code:
        raise _UnusableError("the source code that training depends on has changed since")
    try:
        if _sha256(path) != digest:
            raise _UnusableError("it is damaged (its checksum differs)")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        progress = TrainingState(step, float(metadata["seconds"]), json.loads(metadata["metrics"]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise _UnusableError(f"it is damaged ({error})") from None
    trained = _trained_tensors(model)
    shapes = {name: tensor.shape for name, tensor in tensors.items() if name.startswith("model/")}
    if shapes != {name: parameter.shape for name, parameter in trained.items()}:
        raise _UnusableError("its parameters are not those of this model")
    return progress, tensors


def _restore(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Copy a checkpoint's tensors to model and optimizer; all ranks of a sharded model must call it."""
    trained = _trained_tensors(model)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(shard_like(tensors[name], parameter))
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, entry, parameter_name = name.split("/", 2)
            parameter = parameters[parameter_name]
            optimizer.state[parameter][entry] = value if entry == "step" else shard_like(value, parameter)


def _trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: all parameters, or only an adapter's."""
    return {f"model/{name}": value.detach() for name, value in model.named_parameters() if value.requires_grad}


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"optimizer/{key}/{names[parameter]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first."""
    return sorted(folder.glob(f"step{'[0-9]' * 8}.safetensors"), reverse=True)


def _path(folder: Path, step: int) -> Path:
    return folder / f"step{step:08d}.safetensors"


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
