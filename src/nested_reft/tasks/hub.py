"""Problems of a data set on the Hugging Face hub, or in a data mirror: a folder in the hub's layout, for offline use.

The mirror's files are `<owner>/<name>[/<config>]/<split>.jsonl`, `.parquet`, or parquet shards as the hub names them;
or `<owner>/<name>` is a whole repository with its README.md, as `hf download --local-dir` makes it. One reader reads
both sources, so the same files give the same problems. No code of a data set is ever run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from nested_reft.config.errors import nearest
from nested_reft.config.sources import HubProblems
from nested_reft.tasks.data_files import DATA_FILES, FORMATS, fingerprints, named_files, read_rows, repository_files
from nested_reft.tasks.hub_client import snapshot
from nested_reft.tasks.mirror import MIRROR_VARIABLE, mirrored_commit
from nested_reft.tasks.records import DataError, Problem


def load_problems(
    settings: HubProblems, mirror: Path | None, commit: str | None = None
) -> tuple[list[Problem], dict[str, Any]]:
    """The problems of one split in its order, ids `split-row`, and where they came from, for the run's manifest.

    Rows with an empty question or answer are dropped and counted; of the rest, the first `limit` are kept. `commit` is
    fetched from the hub instead of `settings.revision`. In the record, `rows` counts those of the files, of which
    `rows_read` were needed, and `files` maps each path in the repository to its `bytes` and `sha256`. Raises DataError
    if the split, a column or an answer is not as the settings say, a file is damaged, or the hub cannot be reached.
    """
    if mirror:
        folder = mirror / settings.repo
        find, remedy = named_files, f"put it there, or unset {MIRROR_VARIABLE} to use the hub"
        if (folder / "README.md").is_file():
            find = repository_files
    else:
        folder, resolved = snapshot("dataset", settings.repo, commit or settings.revision, DATA_FILES)
        find, remedy = repository_files, f"correct `name` or `split` of {settings.repo}; supported are {FORMATS}"
    paths = find(folder, settings.name, settings.split, remedy)
    files = fingerprints(folder, paths)
    problems, read, rows = _problems(read_rows(paths), settings)
    if not problems:
        raise DataError(f"{_where(settings)}: none of the {read} rows has both a question and an answer")
    return problems, {
        "kind": "dataset",
        "repo": settings.repo,
        "config_name": settings.name,
        "split": settings.split,
        "requested_revision": settings.revision,
        "resolved_revision": mirrored_commit(folder, files, settings.revision) if mirror else resolved,
        "origin": "mirror" if mirror else "hub",
        "files": files,
        "rows": rows,
        "rows_read": read,
        "rows_kept": len(problems),
        "rows_dropped_empty": read - len(problems),
    }


def _problems(rows: Iterable[Mapping[str, Any]], settings: HubProblems) -> tuple[list[Problem], int, int]:
    """The problems kept, how many rows were read for them, and how many there are."""
    pattern = _answer_pattern(settings)
    problems: list[Problem] = []
    read = total = 0
    for row in rows:
        total += 1
        if len(problems) == settings.limit:
            continue
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
    return problems, read, total


def _answer_pattern(settings: HubProblems) -> re.Pattern[str] | None:
    if settings.answer_pattern is None:
        return None
    try:
        pattern = re.compile(settings.answer_pattern)
    except re.error as error:
        raise DataError(
            f"{_where(settings)}: answer_pattern {settings.answer_pattern!r} is not a regular expression: {error}"
        ) from None
    if not pattern.groups:
        raise DataError(f"{_where(settings)}: answer_pattern {pattern.pattern!r} needs a group ( ) around the answer")
    return pattern


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    """A cell as text: 27.0 is "27", a list is joined by ", ", an empty cell is "".

    A number is the shortest decimal that is read as the same number, in the column's own precision.
    """
    if column not in row:
        names = [name if name.isprintable() else repr(name) for name in row]
        raise DataError(f"{where}: has no column {column!r}, {nearest(column, names)}; columns: {', '.join(names)}")
    value = row[column]
    cells = value if isinstance(value, list) else [value]
    return ", ".join(filter(None, (_cell(cell, column, where) for cell in cells)))


def _cell(value: Any, column: str, where: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Decimal) and value.is_finite():
        return f"{value.normalize():f}"
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            return str(value).strip().encode("utf-8").decode("utf-8")
        except ValueError as error:  # half of a surrogate pair, or an integer of 5,000 digits
            raise DataError(f"{where}: column {column!r} holds a value that cannot be text ({error})") from None
    raise DataError(f"{where}: column {column!r} holds neither text nor a number but {type(value).__name__}")


def _where(settings: HubProblems) -> str:
    name = f"/{settings.name}" if settings.name else ""
    return f"{settings.repo}{name}, split {settings.split}"
