"""One problem, and the JSON-lines files that hold many: what every later step of the pipeline reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from nested_reft.runtime.errors import UserError


class DataError(UserError, ValueError):
    """Problem data that cannot be used; the message names the file or data set, the row and the remedy."""


@dataclass(frozen=True)
class Problem:
    """A question, the gold answer that the verifiable reward compares with, and a worked solution for the warm-up."""

    id: str
    question: str
    answer: str
    solution: str | None = None


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write one JSON object per line, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ({name: text for name, text in asdict(problem).items() if text is not None} for problem in problems)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def read_problems(path: Path) -> list[Problem]:
    """The problems of a file written by `write_problems`; DataError names file and line."""
    try:
        # Not splitlines: a question may hold other characters that it takes for the end of a line.
        lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason}); delete the file to make it again") from None
    problems = []
    for number, line in enumerate(lines, start=1) if lines != [""] else ():
        try:
            row = json.loads(line)
            problem = Problem(**row)
            if not all(isinstance(value, str) and value for value in row.values()):
                raise TypeError("id, question, answer and solution must be text")
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number}: not a problem ({error}); delete the file to make it again"
            ) from None
        problems.append(problem)
    if not problems:
        raise DataError(f"{path}: holds no problem; delete the file to make it again")
    return problems
