"""Files of one data set, in a mirror or in the hub's cache: which hold a split, their rows and checksums."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nested_reft.config.errors import nearest
from nested_reft.data.records import DataError

# Fetched from a data set's repository: no code, no images.
DATA_FILES = ("*.jsonl", "*.json", "*.csv", "*.parquet", "README.md", ".huggingface.yaml")
FORMATS = "JSON lines, JSON, CSV and parquet"
_SHARD = re.compile(r"-[0-9]{5}-of-([0-9]{5})$")


# --- which files hold a split -----------------------------------------------------------------------------------


def named_files(folder: Path, name: str | None, split: str, remedy: str) -> list[Path]:
    """The file `[<name>/]<split>.jsonl` or `.parquet`, or its parquet shards in order; DataError if one is missing."""
    folder = folder / (name or "")
    for single in (folder / f"{split}.jsonl", folder / f"{split}.parquet"):
        if single.is_file():
            return [single]
    shards = sorted(path for path in folder.glob("*.parquet") if _split(path) == split)
    if shards:
        count = int(shards[0].stem[-5:])
        if len(shards) != count:
            raise DataError(f"{folder}: holds {len(shards)} of the {count} parquet shards of {split}")
        return shards
    there = {_split(path) for pattern in ("*.jsonl", "*.parquet") for path in folder.glob(pattern)}
    hint = f"; there is no split {split!r}, {nearest(split, there)}" if there else ""
    raise DataError(f"{folder}/{split}.jsonl, .parquet or -00000-of-*.parquet: no such file{hint}; {remedy}")


def _split(path: Path) -> str:
    return _SHARD.sub("", path.stem)


def repository_files(folder: Path, name: str | None, split: str, remedy: str) -> list[Path]:
    """The files of a split in a copy of a hub repository: as its README says, else by the hub's naming rules.

    Raises DataError if it has no such configuration (the message lists them) or no such split.
    """
    from datasets import load_dataset_builder  # takes a second, and a mirror of JSON lines does not need it

    try:
        with tempfile.TemporaryDirectory() as cache:  # nothing is prepared, but locks are left there
            files = load_dataset_builder(str(folder), name, cache_dir=cache).config.data_files or {}
    except Exception as error:  # an unknown configuration, an empty folder, a damaged README: no common class
        raise DataError(f"{folder}: {' '.join(str(error).split())}; {remedy}") from error
    splits = {str(key): value for key, value in files.items()}
    if split not in splits:
        raise DataError(f"{folder}: there is no split {split!r}, {nearest(split, splits)}; {remedy}")
    return [Path(path) for path in splits[split]]


# --- what they hold ---------------------------------------------------------------------------------------------


def fingerprints(folder: Path, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """For each file its path in `folder`, its size in bytes and its SHA-256 in hex."""
    found = {}
    for path in paths:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        # `datasets` resolves links in the folder, such as those of a mirror put together from several places.
        inside = path if path.is_relative_to(folder) else folder / path.relative_to(folder.resolve())
        found[inside.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    return found


def read_rows(paths: Sequence[Path]) -> Iterator[Mapping[str, Any]]:
    """The rows as they were written; DataError names the file (and line) that cannot be read, or that is empty."""
    for path in paths:
        reader = _READERS.get(path.suffix)
        if reader is None:
            raise DataError(f"{path}: has an unsupported format; supported are {FORMATS}")
        empty = True
        for row in reader(path):
            empty = False
            yield row
        if empty:
            raise DataError(f"{path}: is empty; fetch it again")


# JSON and CSV are not read by `datasets`, which guesses a type for a whole column: "2020-01-01" would come back as a
# date, and "025" in a column that also holds numbers as JSON, or in a CSV file as 25.


def _json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    text = _text(path)
    if path.suffix == ".json":
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            if not str(error).startswith("Extra data"):  # several objects are JSON lines
                raise _not_json(str(path), error) from None
        else:
            yield from _rows_of(document, path)
            return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # for a number of 5,000 digits it is not a JSONDecodeError
            raise _not_json(f"{path}, line {number}", error) from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: is not an object with columns; fetch it again")
        yield row


def _not_json(where: str, error: Exception) -> DataError:
    return DataError(f"{where}: is not JSON ({error}); fetch it again")


def _rows_of(document: Any, path: Path) -> list[dict[str, Any]]:
    """The rows of a whole JSON document: a list of objects, which may be the only one in an object."""
    if isinstance(document, dict):
        lists = [key for key, value in document.items() if _is_table(value)]
        if len(lists) > 1:
            raise DataError(f"{path}: has rows under several keys ({', '.join(lists)}); keep one of them")
        is_row = any(not isinstance(value, list | dict) for value in document.values())
        document = document[lists[0]] if lists else [document] if is_row else None
    if document == [] or _is_table(document):
        return document  # type: ignore[no-any-return]
    raise DataError(f"{path}: is not a list of objects with columns; write one object per row")


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _csv_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(2**31 - 1)  # without it, no cell may have more than 131,072 characters
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise DataError(f"{path}: is not CSV ({error}); fetch it again") from None
    names = [name for name in reader.fieldnames or () if name]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: has two columns named {twice!r}; rename one of them")
    for number, row in enumerate(rows):
        if None in row or None in row.values():  # too many, too few
            raise DataError(f"{path}, row {number}: does not have as many cells as the first line; fetch it again")
        yield row


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    from datasets import Dataset

    with tempfile.TemporaryDirectory() as cache:
        try:
            rows = Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True)
        except Exception as error:  # pyarrow's, datasets' and the operating system's errors have no common class
            reason = str(error.__cause__ or error).partition("\n")[0]
            raise DataError(f"{path}: is not a readable parquet file ({reason}); fetch it again") from error
        for row in rows:
            yield {name: _as_written(cell, rows.features[name]) for name, cell in row.items()}


def _as_written(cell: Any, feature: Any) -> Any:
    """A cell of a parquet file: a number of 32 bits is the shortest decimal that is read as the same number.

    Python's numbers have 64 bits, in which the float32 next to 3.14 is 3.140000104904175. A label is its name.
    """
    import numpy
    from datasets import ClassLabel

    if isinstance(cell, list):
        return [_as_written(inner, getattr(feature, "feature", None)) for inner in cell]
    if isinstance(cell, dict) and isinstance(feature, dict):
        return {name: _as_written(inner, feature[name]) for name, inner in cell.items()}
    if isinstance(cell, int) and isinstance(feature, ClassLabel):
        return feature.int2str(cell) if cell >= 0 else None  # -1 is no label
    if isinstance(cell, float) and getattr(feature, "dtype", None) == "float32":
        return float(str(numpy.float32(cell)))
    return cell


def _text(path: Path) -> str:
    """A file's text, without the byte-order mark that it may begin with."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); fetch it again, or save it as UTF-8"
        ) from None


_READERS = {".jsonl": _json_rows, ".json": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
