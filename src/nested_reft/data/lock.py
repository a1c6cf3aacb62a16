"""The lock file: which files the fetched data sets and models consisted of when they were recorded.

What is fetched later is verified against it, and the hub is asked for the locked commit even if a branch has moved. An
entry with a commit is for files that the hub served. An entry without one is for a mirror that does not say which
commit it holds, and binds mirrors only, since they may hold the same rows in another format. An entry is for the files
that it names; it does not bind a mirror with files of other names. That of a GGUF file has a package or a path in place
of repository, revision and commit. Entries are never overwritten: to accept a change, remove the entry.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from nested_reft.config.reading import read_settings
from nested_reft.config.sources import HubModel, HubProblems
from nested_reft.config.strict import ConfigError, Strict, parse
from nested_reft.data.records import DataError
from nested_reft.data.repositories import COMMIT
from nested_reft.runtime.files import replace_file

HEADER = """\
# What fetched data sets and models consist of; every run verifies what it fetches against this (docs/data.md).
# Written by the target `lock_hub`. `commit: null`: of a data mirror that does not say which commit it holds.
"""


class LockedFile(Strict):
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    def __str__(self) -> str:
        return f"SHA-256 {self.sha256} of {self.bytes} bytes"


class LockEntry(Strict):
    """One split of a data set, or one model: what was asked for, which commit that was, and its files."""

    kind: Literal["dataset", "model"]
    repo: str | None = None
    package: str | None = None
    path: str | None = None
    name: str | None = None
    split: str | None = None
    revision: str | None = None
    commit: Annotated[str, Field(pattern=f"^{COMMIT}$")] | None = None
    rows: int | None = None
    files: dict[str, LockedFile] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_one_thing(self) -> LockEntry:
        if [self.repo, self.package, self.path].count(None) != 2:
            raise ValueError(".repo: is missing, or there is more than one of repo, package and path")
        if self.repo is not None and self.revision is None:
            raise ValueError(".revision: is missing")
        return self

    @property
    def asked(self) -> tuple[str, ...]:
        """What a config file says about it; the repository, the package or the path is one of them."""
        thing = self.repo or self.package or self.path
        return tuple(part or "" for part in (self.kind, thing, self.name, self.split, self.revision))

    def __str__(self) -> str:
        kind, thing, name, split, revision = self.asked
        text = f"{kind} {thing}/{name}" if name else f"{kind} {thing}"
        return text + (f", split {split}" if split else "") + (f", revision {revision}" if revision else "")

    def as_written(self) -> dict[str, Any]:
        """Without what is absent, but for the commit of a repository: null says that it is not known."""
        return {key: value for key, value in self if value is not None or (key == "commit" and self.repo)} | {
            "files": {name: dict(file) for name, file in sorted(self.files.items())}
        }


class HubLock(Strict):
    version: Literal[1] = 1
    entries: tuple[LockEntry, ...] = ()


def find_lock(config_file: str | Path | None, own: str | Path) -> Path:
    """`hub.lock` beside a configuration file if there is one, otherwise `own`."""
    beside = None if config_file is None else Path(config_file).with_name("hub.lock")
    return beside if beside and beside.exists() else Path(own)


def no_lock(path: str | Path) -> ConfigError:
    """The error for a lock file that does not exist: without it, anything that is fetched would be accepted."""
    return ConfigError(
        f"{path}: there is no such lock file; copy config/hub.lock of the clone there, or start an empty one: "
        f"echo 'version: 1' > {shlex.quote(str(path))}"
    )


def read_lock(path: Path) -> HubLock:
    """The lock file; ConfigError if it is damaged or does not exist."""
    if not path.exists():
        raise no_lock(path)
    return parse(HubLock, read_settings(path), str(path))


def locked_commit(lock: HubLock, settings: HubProblems | HubModel) -> str | None:
    """The commit that the hub served when this was recorded, to be fetched again; None if it is not known."""
    return next((entry.commit for entry in locked(lock, settings) if entry.commit), None)


def locked(lock: HubLock, settings: HubProblems | HubModel) -> list[LockEntry]:
    """The entries for what these settings ask for."""
    if isinstance(settings, HubProblems):
        asked = ("dataset", settings.repo, settings.name or "", settings.split, settings.revision)
    else:
        asked = ("model", settings.repo, "", "", settings.revision)
    return [entry for entry in lock.entries if entry.asked == asked]


def is_locked(lock: HubLock, record: Mapping[str, Any], path: Path) -> bool:
    """Whether the lock (in `path`) has an entry for what a record of a download says was fetched.

    Raises DataError if it has one and a file is not as it says.
    """
    found = _entry(record)
    entries = [entry for entry in lock.entries if entry.asked == found.asked]
    if record["origin"] == "hub":
        entries = [entry for entry in entries if entry.commit]
    elif record["origin"] == "mirror":
        entries = [entry for entry in entries if entry.files.keys() == found.files.keys()]
    differences = [_difference(entry, found) for entry in entries]
    if entries and None not in differences:
        raise DataError(
            f"{found}: {differences[0]}; fetch it again, or, to accept the change, remove its entry from {path} and "
            "record it again with `snakemake --cores 1 lock_hub` (and --configfile)"
        )
    return bool(entries)


def add_to_lock(path: Path, records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Record downloads that the lock has no entry for; returns what was added. DataError as in `is_locked`.

    Makes the file if it does not exist: to record is not to verify.
    """
    lock = read_lock(path) if path.exists() else HubLock()
    new = [_entry(record) for record in records if not is_locked(lock, record, path)]
    new = [entry for place, entry in enumerate(new) if entry not in new[:place]]  # a split may have two names
    if new:
        # Once the commit is known, the entry of a mirror with the same files adds nothing.
        known = [(entry.asked, entry.files) for entry in new]
        kept = [entry for entry in lock.entries if (entry.asked, entry.files) not in known]
        entries = sorted((*kept, *new), key=lambda entry: (*entry.asked, *sorted(entry.files)))
        content = {"version": lock.version, "entries": [entry.as_written() for entry in entries]}
        text = HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return [str(entry) for entry in new]


def _entry(record: Mapping[str, Any]) -> LockEntry:
    """The entry for what a record of a download says was fetched."""
    renamed = {"name": "config_name", "revision": "requested_revision", "commit": "resolved_revision"}
    settings = {key: record.get(renamed.get(key, key)) for key in LockEntry.model_fields}
    thing = record.get("repo") or record.get("package") or record.get("path")
    return parse(LockEntry, settings, f"the record of {thing} (delete it to make it again)")


def _difference(locked: LockEntry, found: LockEntry) -> str | None:
    """The first difference, in words; None if nothing differs that a result depends on."""
    for name in sorted({*locked.files, *found.files}):
        was, now = locked.files.get(name), found.files.get(name)
        if now is None:
            return f"{name} is locked, but missing"
        if was is None:
            return f"{name} is there, but not locked"
        if was != now:
            return f"{name} has changed: locked is {was}, found {now}"
    return None if locked.rows == found.rows else f"{locked.rows} rows are locked, {found.rows} found"
