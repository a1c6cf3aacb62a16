"""Files of a data mirror: which hold a split, what rows they have, and their checksums."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nested_reft.config.errors import nearest
from nested_reft.tasks.records import DataError

MIRROR_VARIABLE = "NESTED_REFT_DATA_MIRROR"
_SHARD = re.compile(r"(?P<split>.+)-(?P<index>[0-9]{5})-of-(?P<count>[0-9]{5})\.parquet")


def split_files(mirror: Path, repo: str, name: str | None, split: str) -> list[Path]:
    """The file of a split, or all its shards in order; DataError names the paths looked for."""
    folder = mirror / repo / (name or "")
    for single in (folder / f"{split}.jsonl", folder / f"{split}.parquet"):
        if single.is_file():
            return [single]
    shards = [match for path in sorted(folder.glob("*.parquet")) if (match := _SHARD.fullmatch(path.name))]
    shards = [match for match in shards if match["split"] == split]
    if shards:
        if len(shards) != int(shards[0]["count"]):
            raise DataError(f"{folder}: holds {len(shards)} of the {int(shards[0]['count'])} parquet shards of {split}")
        return [folder / match[0] for match in shards]
    there = _splits(folder)
    hint = f"; the split {split!r} is not there, {nearest(split, there)}" if there else ""
    raise DataError(
        f"{folder}/{split}.jsonl, .parquet or -00000-of-*.parquet: no such file{hint}; "
        f"put it there, or unset {MIRROR_VARIABLE} to use the hub"
    )


def read_rows(paths: Sequence[Path]) -> Iterator[Mapping[str, Any]]:
    """The rows as they were written; DataError names the file (and line) that cannot be read, or that is empty."""
    for path in paths:
        empty = True
        for row in _json_rows(path) if path.suffix == ".jsonl" else _parquet_rows(path):
            empty = False
            yield row
        if empty:
            raise DataError(f"{path}: is empty; fetch it again")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    # Not `datasets`' JSON reader, which guesses a type for a whole column: "2020-01-01" would come back as a date,
    # and "025" in a column that also holds numbers as JSON.
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); fetch it again") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits is no JSONDecodeError
            raise DataError(f"{path}, line {number}: is not JSON ({error}); fetch it again") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: is not an object with columns; fetch it again")
        yield row


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    from datasets import Dataset

    with tempfile.TemporaryDirectory() as cache:
        try:
            rows = Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True)
        except Exception as error:  # pyarrow's, datasets' and the operating system's errors have no common class
            raise DataError(f"{path}: is not a readable parquet file ({error}); fetch it again") from error
        yield from rows


def _splits(folder: Path) -> set[str]:
    files = [path for pattern in ("*.jsonl", "*.parquet") for path in folder.glob(pattern)]
    return {shard["split"] if (shard := _SHARD.fullmatch(path.name)) else path.stem for path in files}
