"""A model from the Hugging Face hub, or from the data mirror, as a folder that `from_pretrained` reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from nested_reft.config.sources import HubModel
from nested_reft.data.files import fingerprints
from nested_reft.data.records import DataError
from nested_reft.data.repositories import MIRROR_VARIABLE, origin, snapshot

# Safetensors, configuration and tokenizer: no pickle (*.bin, *.pt), which runs code when loaded, and no Python.
MODEL_FILES = (
    "*.safetensors",
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "LICENSE*",
)


def fetch_model(
    settings: HubModel, mirror: Path | None, destination: Path, commit: str | None = None
) -> dict[str, Any]:
    """Put a model's files into `destination`; returns where they came from, for the run's manifest.

    The configuration is fetched first. Raises DataError if its number of layers is not `settings.layers`, or the model
    cannot be fetched or has no safetensors weights. `commit` is fetched from the hub instead of `settings.revision`.
    In the record, `files` maps each path to its `bytes` and `sha256`.
    """
    if mirror:
        source, resolved = mirror / settings.repo, None
        if not source.is_dir():
            raise DataError(f"{source}: no such model folder; put it there, or unset {MIRROR_VARIABLE} to use the hub")
    else:
        source, resolved = snapshot("model", settings.repo, commit or settings.revision, ["config.json"])
    _check_layers(source / "config.json", settings)
    if resolved:
        source, _ = snapshot("model", settings.repo, resolved, MODEL_FILES)
    paths = sorted(path for pattern in MODEL_FILES for path in source.glob(pattern) if path.is_file())
    if not any(path.suffix == ".safetensors" for path in paths):
        raise DataError(f"{settings.repo}: has no .safetensors file; pickled weights are not loaded, so convert it")
    destination.mkdir(parents=True, exist_ok=True)
    # Copies, not links into the hub's cache: results stay when the cache is emptied.
    copies = [destination / path.relative_to(source) for path in paths]
    for path, copy in zip(paths, copies, strict=True):
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
    files = fingerprints(destination, copies)
    return {"kind": "model", "repo": settings.repo, **origin(source, files, settings.revision, resolved)}


def _check_layers(path: Path, settings: HubModel) -> None:
    try:
        layers = json.loads(path.read_text(encoding="utf-8"))["num_hidden_layers"]
    except FileNotFoundError:
        raise DataError(f"{settings.repo}: has no config.json; it is not a model that transformers can load") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: does not state num_hidden_layers ({error!r})") from None
    if layers != settings.layers:
        raise DataError(f"{settings.repo}: has {layers} layers, but the configuration says `layers: {settings.layers}`")
