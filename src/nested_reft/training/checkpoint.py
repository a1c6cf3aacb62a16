"""Rolling checkpoints of a training run: one safetensors file that a rerun with the same settings continues from.

The folder is keyed by the hash of the run's settings, so that a changed setting starts over instead of continuing
something else, and it is not a declared output, so that Snakemake does not delete it before a rerun. Random draws
need no saved state: they are seeded by step (`seeding.derive_seed`).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class TrainingState:
    """How far a run is: the last finished step, the seconds it took so far, and the metrics of every step."""

    step: int
    seconds: float
    metrics: list[dict[str, Any]]


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"optimizer/{key}/{names[parameter]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def save_checkpoint(
    folder: Path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer, progress: TrainingState
) -> None:
    """Write the state after a step; the file is replaced in one move, so that a kill leaves the old or the new."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model/{name}": value.detach() for name, value in model.named_parameters()}
    tensors |= _optimizer_tensors(model, optimizer)
    metadata = {
        "key": key,
        "step": str(progress.step),
        "seconds": repr(progress.seconds),
        "metrics": json.dumps(progress.metrics),
    }
    temporary = folder / f"{FILE}.{os.getpid()}.tmp"
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, temporary, metadata)
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(folder / FILE)


def load_checkpoint(
    folder: Path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[TrainingState | None, str]:
    """Restore model and optimizer in place. Returns the progress and '', or None and why there is nothing to continue.

    A damaged or foreign file is not used and not deleted; the next save replaces it.
    """
    path = folder / FILE
    if not path.exists():
        return None, "no checkpoint"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None, f"{path} belongs to other settings"
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        progress = TrainingState(int(metadata["step"]), float(metadata["seconds"]), json.loads(metadata["metrics"]))
        parameters = dict(model.named_parameters())
        if {f"model/{name}" for name in parameters} - tensors.keys():
            return None, f"{path} lacks parameters of this model"
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        return None, f"{path} is damaged ({error})"
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"model/{name}"])
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, entry, parameter_name = name.split("/", 2)
            parameter = parameters[parameter_name]
            optimizer.state[parameter][entry] = value if entry == "step" else value.to(parameter.device)
    return progress, ""


def remove_checkpoint(folder: Path) -> None:
    """Delete the run's checkpoint once its final files stand."""
    (folder / FILE).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
