"""One problem, and the JSON-lines files that hold many: what every later step of the pipeline reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


class DataError(ValueError):
    """Problem data that cannot be used; the message names the file or data set, the row and the remedy."""


@dataclass(frozen=True)
class Problem:
    """A question and the gold answer that the verifiable reward compares with."""

    id: str
    question: str
    answer: str


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write one JSON object a line, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(asdict(problem), ensure_ascii=False) for problem in problems)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def read_problems(path: Path) -> list[Problem]:
    """The problems of a file written by `write_problems`; DataError names file and line."""
    problems = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            problems.append(Problem(**json.loads(line)))
        except (json.JSONDecodeError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: not a problem ({error}); delete the file to make it anew"
            ) from None
    if not problems:
        raise DataError(f"{path}: holds no problem; delete the file to make it anew")
    return problems
