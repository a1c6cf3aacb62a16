"""`nested-reft fetch-model`: one pre-trained model from the hub or its mirror, or from a GGUF file."""

from __future__ import annotations

import argparse
import shutil
from typing import Any

from nested_reft.config.sources import FetchedModel, HubModel, ModelSettings
from nested_reft.config.strict import parse
from nested_reft.data.lock import locked_commit, read_lock
from nested_reft.data.provenance import verify
from nested_reft.runtime.files import write_json
from nested_reft.runtime.progress import Progress


def run(options: argparse.Namespace) -> None:
    """Fetch one model, verify it against the lock file, and record where it came from."""
    settings = parse(ModelSettings, options.settings, "--settings")
    assert isinstance(settings.model, FetchedModel), "`pretrain` makes the others"
    shutil.rmtree(options.output, ignore_errors=True)  # left by an interrupted attempt
    provenance = _fetch(settings.model, options)
    verify(provenance, options.lock, Progress(f"fetch-model {settings.size}"))
    write_json(options.provenance, {"name": settings.size, "role": "model", **provenance})


def _fetch(model: FetchedModel, options: argparse.Namespace) -> dict[str, Any]:
    # Imported here: one needs the hub's client, and the other transformers.
    if isinstance(model, HubModel):
        from nested_reft.data.hub_models import fetch_model
        from nested_reft.data.repositories import mirror_from_environment

        commit = locked_commit(read_lock(options.lock), model)
        return fetch_model(model, mirror_from_environment(), options.output, commit)
    from nested_reft.data.gguf_models import load_gguf

    return load_gguf(model, options.output)
