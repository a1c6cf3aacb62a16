"""Files of one data set, in a mirror or in the hub's cache: which hold a split, their rows and checksums."""

from __future__ import annotations

import codecs
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
_SHARD = re.compile(r"(?P<split>.+)-(?P<index>[0-9]{5})-of-(?P<count>[0-9]{5})\.parquet")


# --- which files hold a split -----------------------------------------------------------------------------------


def named_files(folder: Path, name: str | None, split: str, remedy: str) -> list[Path]:
    """The file `[<name>/]<split>.jsonl` or `.parquet`, or its parquet shards in order; DataError if one is missing."""
    folder = folder / (name or "")
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
    hint = f"; there is no split {split!r}, {nearest(split, there)}" if there else ""
    raise DataError(f"{folder}/{split}.jsonl, .parquet or -00000-of-*.parquet: no such file{hint}; {remedy}")


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


def _splits(folder: Path) -> set[str]:
    files = [path for pattern in ("*.jsonl", "*.parquet") for path in folder.glob(pattern)]
    return {shard["split"] if (shard := _SHARD.fullmatch(path.name)) else path.stem for path in files}


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
            document = _parsed(text)
        except (ValueError, RecursionError) as error:
            if not str(error).startswith("Extra data"):  # several objects are JSON lines
                raise _not_json(str(path), error) from None
        else:
            yield from _rows_of(document, path)
            return
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.lstrip("\ufeff")  # of files that were joined, each with its byte-order mark
        if not line.strip():
            continue
        try:
            row = _parsed(line)
        except (ValueError, RecursionError) as error:  # for a number of 5,000 digits it is not a JSONDecodeError
            raise _not_json(f"{path}, line {number}", error) from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: is not an object with columns; fetch it again")
        yield row


def _parsed(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"the key {_repeated([key for key, _ in pairs])!r} appears twice in an object")
    return found


def _repeated(names: Sequence[str]) -> str | None:
    """The first name that appears twice."""
    return next((name for place, name in enumerate(names) if name and name in names[:place]), None)


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
    if (name := _repeated(reader.fieldnames or ())) is not None:
        raise DataError(f"{path}: has two columns named {name!r}; rename one of them")
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
            # A file made from a CSV file may have the byte-order mark in the name of its first column.
            yield {name.lstrip("\ufeff"): _as_written(cell, rows.features[name]) for name, cell in row.items()}


def _as_written(cell: Any, feature: Any) -> Any:
    """A cell of a parquet file, its numbers of 16 or 32 bits as the shortest decimal that is read as the same number.

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
    if isinstance(cell, float) and getattr(feature, "dtype", None) in ("float16", "float32"):
        return float(str(getattr(numpy, feature.dtype)(cell)))
    return cell


# The longer marks first: that of UTF-32 begins with that of UTF-16.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip


def _text(path: Path) -> str:
    """A file's text without its byte-order mark, which says the encoding; without one it must be UTF-8."""
    content = path.read_bytes()
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not {encoding.removesuffix('-sig').upper()} text ({error.reason} at byte {error.start}); "
            "fetch it again, or save it as UTF-8"
        ) from None


_READERS = {".jsonl": _json_rows, ".json": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
