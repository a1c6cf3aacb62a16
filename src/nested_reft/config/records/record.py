"""What all result files share: how they are checked, written and read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nested_reft.runtime.errors import UserError
from nested_reft.runtime.files import write_json

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class RecordError(UserError, ValueError):
    """A result file that is not as its schema says; the message names the file and what to delete."""

    @classmethod
    def damaged(cls, path: Path, reason: str) -> RecordError:
        return cls(f"{path}: {reason}; delete this file and run again: its rule makes it again")


class Record(BaseModel):
    """Values are checked without coercion. An unknown key is an error for the writer, as it would be lost; the reader
    ignores it, as a later version may add some.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


R = TypeVar("R", bound=Record)


def write_record(path: Path, record: Record, indent: int | None = 1) -> None:
    """Write a record as JSON; `indent` as of `write_json`."""
    write_json(path, record.model_dump(), indent)


def read_record(path: Path, model: type[R]) -> R:
    """The record in a JSON file, or a RecordError."""
    return _parse(path, _text(path), model)


def read_records(path: Path, model: type[R]) -> list[R]:
    """The records in a JSON-lines file, or a RecordError that also names the line."""
    lines = _text(path).splitlines()
    return [_parse(path, line, model, f"line {number}: ") for number, line in enumerate(lines, start=1)]


def check_owner(path: Path, record: Record, expected: Mapping[str, object]) -> None:
    """Raise RecordError if a record says that it belongs to another run than its path does."""
    for key, value in expected.items():
        if getattr(record, key) != value:
            raise RecordError.damaged(path, f"{key} is {getattr(record, key)!r}, its path says {value!r}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RecordError.damaged(path, "is not UTF-8 text") from None


def _parse(path: Path, text: str, model: type[R], where: str = "") -> R:
    try:
        return model.model_validate_json(text, extra="ignore")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecordError.damaged(path, f"{where}{key + ': ' if key else ''}{first['msg']}") from None
