"""A model from the Hugging Face hub, or from the data mirror, as a folder that `from_pretrained` reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub

from nested_reft.config import HubModel
from nested_reft.tasks.hub_client import hub_error, resolve_revision
from nested_reft.tasks.mirror import MIRROR_VARIABLE, sha256
from nested_reft.tasks.records import DataError

# Safetensors, configuration and tokenizer: no pickle (*.bin, *.pt), which runs code when loaded, and no Python.
MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "LICENSE*")


def fetch_model(settings: HubModel, mirror: Path | None, destination: Path) -> dict[str, Any]:
    """Put a model's files into `destination`; returns where they came from, for the run's manifest.

    The configuration comes first: DataError where its number of layers is not `settings.layers`, where the model
    cannot be had, or where it has no safetensors weights. `files` maps each path to its size in bytes and, from the
    mirror, its SHA-256; files of the hub are identified by `resolved_revision`.
    """
    resolved = None if mirror else resolve_revision("model", settings.repo, settings.revision)
    fetch = _from_mirror(settings, mirror, destination) if mirror else _from_hub(settings, resolved, destination)
    fetch(["config.json"])
    _check_layers(destination / "config.json", settings)
    fetch(MODEL_FILES)
    files = sorted(path for path in destination.rglob("*") if path.is_file() and _is_wanted(path, destination))
    if not any(path.suffix == ".safetensors" for path in files):
        raise DataError(f"{settings.repo}: has no .safetensors file; pickled weights are not loaded, so convert it")
    return {
        "repo": settings.repo,
        "requested_revision": settings.revision,
        "resolved_revision": resolved,
        "origin": "mirror" if mirror else "hub",
        "files": {
            path.relative_to(destination).as_posix(): {"bytes": path.stat().st_size}
            | ({"sha256": sha256(path)} if mirror else {})
            for path in files
        },
    }


def _from_mirror(settings: HubModel, mirror: Path, destination: Path) -> Callable[[Sequence[str]], None]:
    source = mirror / settings.repo
    if not source.is_dir():
        raise DataError(f"{source}: no such model folder; put it there, or unset {MIRROR_VARIABLE} to use the hub")

    def fetch(patterns: Sequence[str]) -> None:
        for path in sorted(source.iterdir()):
            if path.is_file() and any(fnmatch(path.name, pattern) for pattern in patterns):
                destination.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, destination / path.name)

    return fetch


def _from_hub(settings: HubModel, resolved: str | None, destination: Path) -> Callable[[Sequence[str]], None]:
    def fetch(patterns: Sequence[str]) -> None:
        try:
            huggingface_hub.snapshot_download(
                settings.repo,
                revision=resolved or settings.revision,
                local_dir=destination,
                allow_patterns=list(patterns),
            )
        except Exception as error:  # see resolve_revision
            raise hub_error("model", settings.repo, settings.revision, error) from error

    return fetch


def _is_wanted(path: Path, destination: Path) -> bool:
    # snapshot_download keeps its book in a hidden folder.
    return not path.relative_to(destination).parts[0].startswith(".")


def _check_layers(path: Path, settings: HubModel) -> None:
    try:
        layers = json.loads(path.read_text(encoding="utf-8"))["num_hidden_layers"]
    except FileNotFoundError:
        raise DataError(f"{settings.repo}: has no config.json; it is not a model that transformers can load") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: does not state num_hidden_layers ({error!r})") from None
    if layers != settings.layers:
        raise DataError(f"{settings.repo}: has {layers} layers, but the configuration says `layers: {settings.layers}`")
