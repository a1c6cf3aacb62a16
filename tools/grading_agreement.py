"""Compares the grader and math-verify by itself with the labels of public graders, and prints the table of
docs/grading.md: the pairs on which the grader differs from the label.

    python tools/grading_agreement.py FOLDER/grading/cases.jsonl

Each line of the file is one pair, in JSON: `gold`, `prediction`, `equivalent`, `kind`, `source`. math-verify reads both
sides by its defaults; an answer without LaTeX delimiters is put in dollar signs, without which it finds fewer of them.
Its defaults run Python's `eval` on plain expressions: no file from an unknown source.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from math_verify import parse, verify

from nested_reft.tasks.grading import grade

PAGE = Path(__file__).parents[1] / "docs/grading.md"
ROW = re.compile(r"^\| `` (.*?) `` \| `` (.*?) `` \| (?:yes|no) \| (.*?) \|", re.MULTILINE)
DELIMITERS = re.compile(r"\$|\\\(|\\\[|\\boxed")


def by_math_verify(prediction: str, gold: str) -> bool:
    """math-verify's verdict, with its own search for the answer."""
    sides = [text if DELIMITERS.search(text) else f"${text}$" for text in (gold, prediction)]
    return bool(verify(*map(parse, sides)))


def main(path: Path) -> None:
    logging.disable(logging.CRITICAL)
    cases = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    reasons = {(gold, text): why for gold, text, why in ROW.findall(PAGE.read_text(encoding="utf-8"))}
    ours = differing(cases, grade)
    theirs = differing(cases, by_math_verify)
    for name, wrong in (("this grader", ours), ("math-verify", theirs)):
        accepted = sum(not case["equivalent"] for case in wrong)
        agreed, rejected = len(cases) - len(wrong), len(wrong) - accepted
        print(f"{name}: {agreed} of {len(cases)}; {accepted} accepted and {rejected} rejected against the label")
    print("", "| gold answer | response | accepted here | why | from |", "|---|---|---|---|---|", sep="\n")
    for case in ours:
        if case["kind"] in ("answer", "response"):
            print(row(case, reasons))


def differing(cases: list[dict[str, Any]], grader: Callable[[str, str], bool]) -> list[dict[str, Any]]:
    """The pairs on which a grader and the label differ."""
    return [case for case in cases if grader(case["prediction"], case["gold"]) != case["equivalent"]]


def row(case: dict[str, Any], reasons: dict[tuple[str, str], str]) -> str:
    """A row of the table, with the reason that the page has, or a question mark to be filled in."""
    gold, text = (json.dumps(case[side], ensure_ascii=False)[1:-1] for side in ("gold", "prediction"))
    accepted = "no" if case["equivalent"] else "yes"
    source = case["source"].partition("@")[0]
    return f"| `` {gold} `` | `` {text} `` | {accepted} | {reasons.get((gold, text), '?')} | {source} |"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
