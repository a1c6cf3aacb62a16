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
from string import Formatter
from typing import Any, Literal

from nested_reft.config.errors import nearest
from nested_reft.config.sources import HubProblems, template_columns
from nested_reft.data.files import DATA_FILES, FORMATS, fingerprints, named_files, read_rows, repository_files
from nested_reft.data.records import DataError, Problem
from nested_reft.data.repositories import MIRROR_VARIABLE, origin, snapshot


def load_problems(
    settings: HubProblems, mirror: Path | None, commit: str | None = None
) -> tuple[list[Problem], dict[str, Any]]:
    """The problems of one split in its order, ids `split-row`, and where they came from, for the run's manifest.

    Rows with an empty question, answer or solution are dropped and counted; of the rest, `limit` are kept, after the
    first `offset`. `commit` is fetched from the hub instead of `settings.revision`. In the record, `rows` counts those
    of the files, of which `rows_read` were needed, and `files` maps each path in the repository to its `bytes` and
    `sha256`. Raises DataError if the split, a column or an answer is not as the settings say, a file is damaged, or the
    hub cannot be reached.
    """
    if mirror:
        folder, resolved = mirror / settings.repo, None
        find = repository_files if (folder / "README.md").is_file() else named_files
        remedy = f"put it there, or unset {MIRROR_VARIABLE} to use the hub"
    else:
        folder, resolved = snapshot("dataset", settings.repo, commit or settings.revision, DATA_FILES)
        find, remedy = repository_files, f"correct `name` or `split` of {settings.repo}; supported are {FORMATS}"
    paths = find(folder, settings.name, settings.split, remedy)
    files = fingerprints(folder, paths)
    problems, usable, read, rows = _problems(read_rows(paths), settings)
    if not usable:
        needed = (
            "both a question and an answer" if settings.solution is None else "a question, an answer and a solution"
        )
        raise DataError(f"{_where(settings)}: none of the {read} rows has {needed}")
    if not problems:
        raise DataError(f"{_where(settings)}: offset {settings.offset} leaves none of the {usable} problems; lower it")
    return problems, {
        "kind": "dataset",
        "repo": settings.repo,
        "config_name": settings.name,
        "split": settings.split,
        **origin(folder, files, settings.revision, resolved),
        "rows": rows,
        "rows_read": read,
        "rows_kept": len(problems),
        "rows_dropped_empty": read - usable,
        "rows_repeated": len(problems) - len({(problem.question, problem.answer) for problem in problems}),
    }


def _problems(rows: Iterable[Mapping[str, Any]], settings: HubProblems) -> tuple[list[Problem], int, int, int]:
    """The problems kept, how many rows had one, how many were read, and how many there are."""
    pattern = _pattern(settings, "answer_pattern")
    if pattern is not None and not pattern.groups:
        raise DataError(f"{_where(settings)}: answer_pattern {pattern.pattern!r} needs a group ( ) around the answer")
    problems: list[Problem] = []
    removed = _pattern(settings, "solution_without")
    read = total = usable = 0
    for row in rows:
        total += 1
        if len(problems) == settings.limit:
            continue
        where = f"{_where(settings)}, row {read}"
        row = _with_fields(row)
        question = " ".join(filter(None, (_text(row, column, where, "user") for column in settings.question)))
        column = next((name for name in settings.answer if name in row), settings.answer[0])
        answer = _text(row, column, where)
        if answer and pattern is not None:
            match = pattern.search(answer)
            if match is None:
                raise DataError(f"{where}: answer_pattern {pattern.pattern!r} is not found in {answer[-80:]!r}")
            answer = (match[1] or "").strip()
        solution = _solution(row, settings, removed, where)
        if question and answer and solution != "":
            usable += 1
            if usable > settings.offset:
                problems.append(Problem(f"{settings.split}-{read}", question, answer, solution))
        read += 1
    return problems, usable, read, total


def _solution(row: Mapping[str, Any], settings: HubProblems, removed: re.Pattern[str] | None, where: str) -> str | None:
    """The worked solution of a row; None if the settings ask for none, "" if a column of it is empty."""
    if settings.solution is None:
        return None
    cells = {column: _text(row, column, where) for column in template_columns(settings.solution)}
    if not all(cells.values()):
        return ""
    parts = Formatter().parse(settings.solution)
    text = "".join(literal + (cells[column] if column is not None else "") for literal, column, _, _ in parts)
    return removed.sub("", text) if removed else text


def _pattern(settings: HubProblems, key: Literal["answer_pattern", "solution_without"]) -> re.Pattern[str] | None:
    text = getattr(settings, key)
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise DataError(f"{_where(settings)}: {key} {text!r} is not a regular expression: {error}") from None


def _with_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a row, and those within them as `column.field`."""
    cells = dict(row)
    for name, cell in row.items():
        if isinstance(cell, Mapping):
            cells |= {f"{name}.{field}": inner for field, inner in _with_fields(cell).items()}
    return cells


def _text(row: Mapping[str, Any], column: str, where: str, role: str = "assistant") -> str:
    """A cell as text: 27.0 is "27", a list is joined by ", ", of chat messages the last of `role`, an empty cell is "".

    A number is the shortest decimal that is read as the same number, in the column's own precision.
    """
    if column not in row:
        names = [name if name.isprintable() else repr(name) for name in row]
        raise DataError(f"{where}: has no column {column!r}, {nearest(column, names)}; columns: {', '.join(names)}")
    value = row[column]
    cells = value if isinstance(value, list) else [value]
    if cells and all(isinstance(cell, dict) and {"role", "content"} <= cell.keys() for cell in cells):
        cells = [message["content"] for message in cells if message["role"] == role][-1:]
        if not cells:
            raise DataError(f"{where}: column {column!r} holds messages, but none of the role '{role}'")
    return ", ".join(filter(None, (_cell(cell, column, where) for cell in cells)))


def _cell(value: Any, column: str, where: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and math.isinf(value):
        raise DataError(f"{where}: column {column!r} holds {value}, or a number too large to be read; write it as text")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Decimal) and value.is_finite():
        return f"{value.normalize():f}"
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            text = str(value).strip().encode("utf-8").decode("utf-8")
        except ValueError as error:  # half of a surrogate pair, or an integer of 5,000 digits
            raise DataError(f"{where}: column {column!r} holds a value that cannot be text ({error})") from None
        return text if any(map(str.isprintable, text)) else ""  # a zero-width space alone is no text
    raise DataError(f"{where}: column {column!r} holds neither text nor a number but {type(value).__name__}")


def _where(settings: HubProblems) -> str:
    name = f"/{settings.name}" if settings.name else ""
    return f"{settings.repo}{name}, split {settings.split}"
