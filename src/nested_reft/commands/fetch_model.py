"""`nested-reft fetch-model`: one pre-trained model from the hub or its mirror."""

from __future__ import annotations

import argparse
import shutil

from nested_reft.config.sources import HubModel, ModelSettings
from nested_reft.config.strict import ConfigError, parse
from nested_reft.runtime.files import write_json
from nested_reft.runtime.progress import Progress
from nested_reft.tasks.hub_lock import locked_commit, read_lock
from nested_reft.tasks.hub_models import fetch_model
from nested_reft.tasks.mirror import mirror_from_environment
from nested_reft.tasks.provenance import verify


def run(options: argparse.Namespace) -> None:
    """Fetch one model, verify it against the lock file, and record where it came from."""
    settings = parse(ModelSettings, options.settings, "--settings")
    if not isinstance(settings.model, HubModel):
        raise ConfigError("model.source: must be 'hub'; `nested-reft pretrain` makes the others")
    shutil.rmtree(options.output, ignore_errors=True)  # left by an interrupted attempt
    commit = locked_commit(read_lock(options.lock), settings.model)
    provenance = fetch_model(settings.model, mirror_from_environment(), options.output, commit)
    verify(provenance, options.lock, Progress(f"fetch-model {settings.size}"))
    write_json(options.provenance, {"name": settings.size, "role": "model", **provenance})
