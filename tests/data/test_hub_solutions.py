"""Worked solutions for the warm-up: templates over a data set's columns, and splitting a data set in two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nested_reft.config.sources import HubProblems
from nested_reft.data.hub import load_problems
from nested_reft.data.records import DataError, Problem, read_problems, write_problems

ROWS = [
    {
        "Body": f"There are {n} hens.",
        "Equation": f"( {n}.0 - 1.0 )",
        "answer": f"{n - 1}",
        "empty": "" if n < 4 else "x",
    }
    for n in range(2, 7)
]


def load(folder: Path, rows: list[dict[str, Any]] = ROWS, **keys: Any) -> tuple[list[Problem], dict[str, Any]]:
    (folder / "o/d").mkdir(parents=True, exist_ok=True)
    (folder / "o/d/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {"source": "hub", "repo": "o/d", "split": "train", "question": "Body", "answer": "answer", **keys}
    return load_problems(HubProblems.model_validate(settings), folder)


def test_a_template_is_filled_from_the_columns(tmp_path: Path) -> None:
    found, _ = load(tmp_path, solution="{Equation} = {answer} {{so}}")
    assert found[0].solution == "( 2.0 - 1.0 ) = 1 {so}"


def test_braces_of_a_column_stay(tmp_path: Path) -> None:
    found, _ = load(tmp_path, [ROWS[0] | {"Equation": "\\boxed{1} {answer}"}], solution="{Equation}")
    assert found[0].solution == "\\boxed{1} {answer}"


def test_a_pattern_is_removed(tmp_path: Path) -> None:
    row = ROWS[0] | {"Equation": "He has 48/2 = <<48/2=24>>24 clips\n#### 24"}
    found, _ = load(tmp_path, [row], solution="{Equation}", solution_without="<<.*?>>")
    assert found[0].solution == "He has 48/2 = 24 clips\n#### 24"


def test_rows_with_an_empty_column_are_dropped_and_counted(tmp_path: Path) -> None:
    found, record = load(tmp_path, solution="{empty}")
    assert [problem.id for problem in found] == ["train-2", "train-3", "train-4"]
    assert record["rows_dropped_empty"] == 2


def test_offset_and_limit_split_a_data_set(tmp_path: Path) -> None:
    first, _ = load(tmp_path, limit=2)
    rest, record = load(tmp_path, offset=2)
    assert [problem.id for problem in (*first, *rest)] == [f"train-{row}" for row in range(5)]
    assert (record["rows_kept"], record["rows_dropped_empty"], record["rows"]) == (3, 0, 5)
    with pytest.raises(DataError, match="o/d, split train: offset 9 leaves none of the 5 problems; lower it"):
        load(tmp_path, offset=9)


def test_an_unknown_column_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"o/d, split train, row 0: has no column 'Equations', did you mean 'Equation'"):
        load(tmp_path, solution="{Equations}")


@pytest.mark.parametrize("template", ["plain", "{", "{answer!r}", "{answer:>5}", "{answer[0]}", "{}"])
def test_what_is_no_template_is_an_error(tmp_path: Path, template: str) -> None:
    with pytest.raises(ValidationError, match="solution"):
        load(tmp_path, solution=template)


def test_a_pattern_that_is_no_regular_expression_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"solution_without '\(' is not a regular expression"):
        load(tmp_path, solution="{answer}", solution_without="(")


def test_files_of_problems_keep_solutions_and_name_none_that_is_not_there(tmp_path: Path) -> None:
    plain, solved = Problem("a", "q", "1"), Problem("b", "q", "1", "1 = 1")
    write_problems(tmp_path / "file.jsonl", [plain, solved])
    assert read_problems(tmp_path / "file.jsonl") == [plain, solved]
    assert "solution" not in (tmp_path / "file.jsonl").read_text(encoding="utf-8").splitlines()[0]


def test_real_solutions_end_with_their_answer(data_mirror: Path) -> None:
    from nested_reft.grading.grader import grade

    svamp = {"source": "hub", "repo": "ChilleD/SVAMP", "split": "train", "question": ["Body", "Question"]}
    found, _ = load_problems(
        HubProblems.model_validate(svamp | {"answer": "Answer", "solution": "{Equation} = {Answer}\n#### {Answer}"}),
        data_mirror,
    )
    assert all(grade(problem.solution or "", problem.answer) for problem in found[:200])
