"""The records of where data and models came from: verified against the lock file, summed up, and recorded in it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from nested_reft.files import write_json
from nested_reft.progress import Progress
from nested_reft.tasks.records import DataError

Options = argparse.Namespace
FETCHED = ("hub", "mirror")  # origins; the others are made here
SUMMARY = ("role", "name", "origin", "rows_kept", "requested_revision", "resolved_revision", "files")


def verify(record: dict[str, Any], lock: Path, progress: Progress) -> None:
    """DataError where the lock file says otherwise; a line in the log says whether it says anything."""
    from nested_reft.tasks.hub_lock import is_locked, read_lock

    verified = is_locked(read_lock(lock), record, lock)
    progress.log(f"as locked in {lock}" if verified else f"not verified: {lock} has no entry for it")


def check(options: Options) -> None:
    """Verify the sources of an experiment and sum them up; training starts when this file stands."""
    from nested_reft.tasks.hub_lock import is_locked, read_lock

    lock, progress, unlocked, sources = read_lock(options.lock), Progress("check"), [], []
    for path in options.provenance:
        source = _read(path)
        if source["origin"] in FETCHED:
            try:
                if not is_locked(lock, source, options.lock):
                    unlocked.append(f"{source['role']} {source['name']}")
            except DataError as error:  # the lock was changed since this was fetched
                raise DataError(f"{error}; delete {path} to fetch again what was fetched before") from None
        rows = f"  {source['rows_kept']} problems" if "rows_kept" in source else ""
        progress.log(f"{source['role']}  {source['name']}  {source['origin']}{rows}")
        sources.append({key: source.get(key) for key in SUMMARY})
    if unlocked:
        line = f"not verified, {options.lock} has no entry: {', '.join(unlocked)}; the target lock_hub records them"
        progress.log(line)
        print(f"check  {line}", flush=True)
    write_json(options.output, sources)


def lock(options: Options) -> None:
    """Record in the lock file what was fetched and is not in it yet."""
    from nested_reft.tasks.hub_lock import add_to_lock

    records = [_read(path) for path in options.provenance]
    added = add_to_lock(options.lock, [record for record in records if record["origin"] in FETCHED])
    for entry in added:
        print(f"lock  {entry}")
    print(f"lock  {len(added)} new entries in {options.lock}", flush=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not {"role", "name", "origin"} <= record.keys():
            raise ValueError("it is no record of a source")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete it to make it anew") from None
    return record
