"""The labelled answers of `labelled.jsonl`, by kind: how models word, mark and spell their answers."""

from __future__ import annotations

import json
from pathlib import Path

import grading_agreement
import pytest

from nested_reft.grading.grader import MARKS, decide, grade

CASES = [json.loads(line) for line in Path(__file__).with_name("labelled.jsonl").read_text("utf-8").splitlines()]
KINDS = list(dict.fromkeys(case["kind"] for case in CASES))


@pytest.mark.parametrize("kind", KINDS)
def test_labelled_answers(kind: str) -> None:
    cases = [case for case in CASES if case["kind"] == kind]
    assert not [case for case in cases if grade(case["response"], case["gold"]) != case["right"]]


def test_marked_answers_are_a_part_of_any_answers() -> None:
    """Of the labelled answers, exactly those in a mark count, and no wrong one does."""
    for case in CASES:
        marked = grade(case["response"], case["gold"], "marked")
        assert marked == (case["right"] and decide(case["response"], case["gold"]).found_by in MARKS)


@pytest.mark.parametrize(
    ("response", "gold", "marked"),
    [
        (r"\boxed{5}", "5", True),
        ("So it is 5.\n#### 5", "5", True),
        ("<answer>5</answer>", "5", True),
        ('{"answer": 5}', "5", True),
        ("The answer is 5.", "5", False),
        ("**Answer: 5**", "5", False),
        ("5", "5", False),
        ("So there are 5.", "5", False),
        (r"\boxed{C}", "C", True),
        ("The answer is C.", "C", False),
        (r"\boxed{\text{no}}", "no", True),
        ("The answer is no.", "no", False),
    ],
)
def test_only_a_mark_counts_if_one_is_asked_for(response: str, gold: str, marked: bool) -> None:
    assert grade(response, gold) is True
    assert grade(response, gold, "marked") is marked


@pytest.mark.parametrize(
    "gold", ["18", "-2.5", r"\frac{3}{4}", "(1, 2]", r"2\sqrt{3}", r"\text{even}", "B", "x^2 - 1", "$0.50"]
)
def test_a_gold_answer_is_right_in_every_phrasing(gold: str) -> None:
    for phrasing in grading_agreement.PHRASINGS:
        assert grade(grading_agreement.phrased(gold, phrasing), gold), phrasing


def test_the_command_counts_what_each_rule_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases, golds = tmp_path / "cases.jsonl", tmp_path / "golds.jsonl"
    rows = [
        {"gold": "8", "response": r"\boxed{8}", "right": True},
        {"gold": "7", "response": "So there are 8, since 7 + 1 = 8.", "right": False},
        {"gold": "7", "prediction": "It is one of these: 7.", "equivalent": False, "source": "a/b@c"},
        {"gold": "7", "response": "7", "right": None},
    ]
    cases.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    golds.write_text('{"answer": "2 + 2\\n#### 4"}\n{"answer": "#### 4"}\n', encoding="utf-8")
    grading_agreement.main([str(cases), f"{golds}#answer"], pairs=True)
    out = capsys.readouterr().out
    assert "| cases.jsonl: 3 | 2; 0 refused, 1 accepted |" in out
    assert f"| golds.jsonl#answer: {len(grading_agreement.PHRASINGS)} | 9; 0 refused, 0 accepted |" in out
    assert "| `\\boxed` | 2 | 2 |" in out
    grading_agreement.main([f"{golds}#answer"], pairs=False, alone=True)
    assert f"| golds.jsonl#answer: {len(grading_agreement.PHRASINGS)} | 9; 0 refused, 0 accepted |\n" in (
        capsys.readouterr().out
    )
    assert "| `` 7 `` | `` It is one of these: 7. `` | yes | ? | a/b |" in out
