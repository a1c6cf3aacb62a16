"""The records of where data and models came from: verified against the lock file, summarised, and recorded in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nested_reft.config.errors import shortened
from nested_reft.config.sources import SHAPE_KEYS, ModelShape
from nested_reft.data.lock import add_to_lock, is_locked, read_lock
from nested_reft.data.records import DataError
from nested_reft.runtime.files import write_json
from nested_reft.runtime.progress import Progress

FETCHED = ("hub", "mirror", "package", "gguf")  # origins; the others are made here
SUMMARY = ("role", "name", "origin", "package", "path", "rows_kept")
VERSION = ("requested_revision", "resolved_revision", "files")


def verify(record: dict[str, Any], lock: Path, progress: Progress) -> None:
    """Raise DataError if the lock file says otherwise; the log tells whether it has an entry."""
    verified = is_locked(read_lock(lock), record, lock)
    progress.log(f"as locked in {lock}" if verified else f"not verified: {lock} has no entry for it")


def check_sources(paths: Sequence[Path], shapes: Mapping[str, ModelShape], lock_path: Path, output: Path) -> None:
    """Verify the sources of an experiment and write a summary of them.

    Raises DataError for one that has changed, and for a model that is not as its entry in `shapes` says.
    """
    lock, progress, unlocked, sources = read_lock(lock_path), Progress("check"), [], []
    for path in paths:
        source = _read(path)
        if source["origin"] in FETCHED:
            try:
                if not is_locked(lock, source, lock_path):
                    unlocked.append(f"{source['role']} {source['name']}")
            except DataError as error:  # the lock was changed since this was fetched
                raise DataError(f"{error}; delete {path} to replace what was fetched before") from None
        if source["role"] == "model" and source["name"] in shapes:
            check_shape(source["name"], shapes[source["name"]], path.with_suffix(""))
        facts = [source["role"], source["name"], source["origin"], source.get("package") or source.get("path")]
        facts += [f"{source['rows_kept']} problems"] if "rows_kept" in source else []
        progress.log("  ".join(filter(None, facts)))
        sources.append({key: source.get(key) for key in (*SUMMARY, *VERSION)})
    if unlocked:
        line = f"not verified, {lock_path} has no entry: {', '.join(unlocked)}; run the target lock_hub to record them"
        progress.log(line)
        print(f"check  {line}", flush=True)
    write_json(output, sources)


def check_shape(size: str, shape: ModelShape, folder: Path) -> None:
    """Raise DataError if the model that was fetched into `folder` has another shape."""
    from transformers import AutoConfig  # takes seconds, and few experiments state a shape

    try:
        found = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: has no config.json that transformers reads ({shortened(str(error))})") from None
    for key, name in SHAPE_KEYS.items():
        stated, real = getattr(shape, key), getattr(found, name)
        if stated != real:
            raise DataError(
                f"sizes.{size}.shape.{key}: is {json.dumps(stated)}, but {name} of the fetched model is "
                f"{json.dumps(real)}; correct it, or remove `shape`"
            )


def lock_sources(paths: Sequence[Path], lock_path: Path) -> list[str]:
    """Record in the lock file what was fetched and is not in it yet; returns the new entries."""
    records = [_read(path) for path in paths]
    return add_to_lock(lock_path, [record for record in records if record["origin"] in FETCHED])


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not {"role", "name", "origin"} <= record.keys():
            raise ValueError("it is not a record of a source")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete it to make it again") from None
    return record
