"""Problems and models from the Hugging Face hub, or from a data mirror: a folder in the hub's layout, for no network.

The mirror's files are `<owner>/<name>[/<config>]/<split>.jsonl`, `.parquet`, or parquet shards as the hub names them.
No code of a data set or model is ever run, and pickled weights are never fetched.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nested_reft.config import HubProblems
from nested_reft.config.errors import nearest
from nested_reft.tasks.hub_client import hub_error, resolve_revision
from nested_reft.tasks.hub_models import fetch_model
from nested_reft.tasks.mirror import MIRROR_VARIABLE, read_rows, sha256, split_files
from nested_reft.tasks.records import DataError, Problem

__all__ = ["MIRROR_VARIABLE", "fetch_model", "load_problems", "mirror_from_environment"]


def mirror_from_environment() -> Path | None:
    """The data mirror's folder where NESTED_REFT_DATA_MIRROR is set; DataError where it names no folder."""
    value = os.environ.get(MIRROR_VARIABLE)
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise DataError(f"{MIRROR_VARIABLE}={value}: no such folder; correct it, or unset it to use the hub")
    return folder


def load_problems(settings: HubProblems, mirror: Path | None) -> tuple[list[Problem], dict[str, Any]]:
    """The problems of one split in its order, ids `split-row`, and where they came from, for the run's manifest.

    Rows with an empty question or answer are dropped and counted; `limit` keeps the first problems left. DataError:
    the split, a column or an answer is not as the settings say, a file is damaged, or the hub cannot be reached.
    """
    files: dict[str, str] = {}
    resolved = None
    if mirror is not None:
        paths = split_files(mirror, settings.repo, settings.name, settings.split)
        rows: Iterable[Mapping[str, Any]] = read_rows(paths)
        files = {path.relative_to(mirror).as_posix(): sha256(path) for path in paths}
    else:
        resolved = resolve_revision("dataset", settings.repo, settings.revision)
        rows = _hub_rows(settings, resolved)
    problems, read = _problems(rows, settings)
    if not problems:
        raise DataError(f"{_where(settings)}: none of the {read} rows has both a question and an answer")
    return problems, {
        "repo": settings.repo,
        "config_name": settings.name,
        "split": settings.split,
        "requested_revision": settings.revision,
        "resolved_revision": resolved,
        "origin": "hub" if mirror is None else "mirror",
        "files": files,
        "rows_read": read,
        "rows_kept": len(problems),
        "rows_dropped_empty": read - len(problems),
    }


def _hub_rows(settings: HubProblems, resolved: str | None) -> Iterable[Mapping[str, Any]]:
    from datasets import load_dataset  # takes a second, which a mirror of JSON lines does not need

    try:
        return load_dataset(  # type: ignore[no-any-return]
            settings.repo, settings.name, split=settings.split, revision=resolved or settings.revision
        )
    except ValueError as error:  # an unknown configuration or split; the text lists those there are
        raise DataError(f"{_where(settings)}: {error}") from error
    except Exception as error:
        raise hub_error("dataset", settings.repo, settings.revision, error) from error


def _problems(rows: Iterable[Mapping[str, Any]], settings: HubProblems) -> tuple[list[Problem], int]:
    """The problems kept, and how many rows were read for them."""
    pattern = _answer_pattern(settings)
    problems: list[Problem] = []
    read = 0
    for row in rows:
        if len(problems) == settings.limit:
            break
        where = f"{_where(settings)}, row {read}"
        question = " ".join(filter(None, (_text(row, column, where) for column in settings.question)))
        column = next((name for name in settings.answer if name in row), settings.answer[0])
        answer = _text(row, column, where)
        if answer and pattern is not None:
            match = pattern.search(answer)
            if match is None:
                raise DataError(f"{where}: answer_pattern {pattern.pattern!r} is not found in {answer[-80:]!r}")
            answer = (match[1] or "").strip()
        if question and answer:
            problems.append(Problem(f"{settings.split}-{read}", question, answer))
        read += 1
    return problems, read


def _answer_pattern(settings: HubProblems) -> re.Pattern[str] | None:
    if settings.answer_pattern is None:
        return None
    try:
        pattern = re.compile(settings.answer_pattern)
    except re.error as error:
        raise DataError(
            f"{_where(settings)}: answer_pattern {settings.answer_pattern!r} is no regular expression: {error}"
        ) from None
    if not pattern.groups:
        raise DataError(f"{_where(settings)}: answer_pattern {pattern.pattern!r} needs a group ( ) around the answer")
    return pattern


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    """A cell as text: 27.0 is "27", a list is joined by ", ", nothing is ""."""
    if column not in row:
        raise DataError(f"{where}: has no column {column!r}, {nearest(column, row)}; columns: {', '.join(row)}")
    value = row[column]
    cells = value if isinstance(value, list) else [value]
    return ", ".join(filter(None, (_cell(cell, column, where) for cell in cells)))


def _cell(value: Any, column: str, where: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            return str(value).strip().encode("utf-8").decode("utf-8")
        except ValueError as error:  # half of a surrogate pair, or an integer of 5,000 digits
            raise DataError(f"{where}: column {column!r} holds what cannot be text ({error})") from None
    raise DataError(f"{where}: column {column!r} holds neither text nor a number but {type(value).__name__}")


def _where(settings: HubProblems) -> str:
    name = f"/{settings.name}" if settings.name else ""
    return f"{settings.repo}{name}, split {settings.split}"
