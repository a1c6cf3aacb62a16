"""What each rule of the grader decides on labelled answers, and how often rightly, beside math-verify by itself and the
last number: the tables of docs/grading.md.

    python tools/grading_agreement.py [--pairs] [--alone] FILE [FILE ...]

A file has JSON lines with `gold`, `response` (or `prediction`) and `right` (or `equivalent`; rows in which it is null
are left out): tests/grading/labelled.jsonl is one. `FILE#COLUMN` takes the gold answers of a data set, JSON lines or
parquet, each in all PHRASINGS, which are right: the first MOST_GOLDS different ones, or with `--alone`, which leaves
math-verify and the last number out and takes seconds, all. `--pairs` also prints the answers on which the grader and
the label differ.

math-verify reads both sides by its defaults; an answer without LaTeX delimiters is put in dollar signs, without which
it finds fewer of them. Its defaults run Python's `eval` on plain expressions: no file from an unknown source.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from math_verify import parse, verify

from nested_reft.grading.grader import decide

PAGE = Path(__file__).parents[1] / "docs/grading.md"
ROW = re.compile(r"^\| `` (.*?) `` \| `` (.*?) `` \| (?:yes|no) \| (.*?) \|", re.MULTILINE)
DELIMITERS = re.compile(r"\$|\\\(|\\\[|\\boxed")
NUMBER = re.compile(r"-?[0-9][0-9,]*(?:\.[0-9]+)?")
PHRASINGS = (
    r"So the answer is $\boxed{@}$.", "#### @", "<answer>@</answer>", '{"answer": "@"}', "The answer is @.",
    "The answer is $@$.", "Final Answer: **@**", "The answer is: @ (since that is what remains).", "@",
)  # fmt: skip
MOST_GOLDS = 100
GRADERS = ("this grader", "math-verify", "last number")


class Case(NamedTuple):
    gold: str
    response: str
    right: bool
    source: str = ""


def by_math_verify(response: str, gold: str) -> bool:
    """math-verify's verdict, with its own search for the answer."""
    sides = [text if DELIMITERS.search(text) else f"${text}$" for text in (gold, response)]
    return bool(verify(*map(parse, sides)))


def by_last_number(response: str, gold: str) -> bool:
    """Whether the last number of both texts is the same."""
    a, b = ((NUMBER.findall(text) or [""])[-1].replace(",", "") for text in (response, gold))
    return bool(a and b) and float(a) == float(b)


def cases(name: str, most_golds: int | None) -> Iterator[Case]:
    """The labelled answers of a file, or the gold answers of a data set in all phrasings."""
    path, _, column = name.partition("#")
    if column:
        found = golds(Path(path), column)[:most_golds]
        yield from (Case(gold, phrased(gold, text), True) for gold in found for text in PHRASINGS)
        return
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        right = row.get("right", row.get("equivalent"))
        if right is not None:
            yield Case(row["gold"], row.get("response", row.get("prediction")), right, row.get("source", ""))


def golds(path: Path, column: str) -> list[str]:
    """The different gold answers of a data set; of a solution, what stands after `####`."""
    if path.suffix == ".parquet":
        import pandas as pd

        values: list[Any] = pd.read_parquet(path)[column].tolist()
    else:
        values = [json.loads(line)[column] for line in path.read_text(encoding="utf-8").splitlines()]
    return [text for text in dict.fromkeys(str(value).rpartition("####")[2].strip() for value in values) if text]


def phrased(gold: str, phrasing: str) -> str:
    if phrasing.startswith("{"):
        return json.dumps({"answer": gold})
    return phrasing.replace("$@$", "@" if "$" in gold else "$@$").replace("@", gold)


def main(names: list[str], pairs: bool, alone: bool = False) -> None:
    graders = GRADERS[:1] if alone else GRADERS
    found, compared = defaultdict[str, Counter[str]](Counter), defaultdict[str, Counter[str]](Counter)
    differing: list[Case] = []
    print(f"| answers | {' | '.join(graders)} |", "|---|" + "---|" * len(graders), sep="\n")
    for name in names:
        total: Counter[str] = Counter()
        for case in cases(name, None if alone else MOST_GOLDS):
            verdict = decide(case.response, case.gold)
            verdicts = [verdict.right]
            if not alone:
                verdicts += [by_math_verify(case.response, case.gold), by_last_number(case.response, case.gold)]
            for counts in (found[verdict.found_by], compared[verdict.compared_by], total):
                counts["all"] += 1
                counts.update(grader for grader, right in zip(graders, verdicts, strict=True) if right == case.right)
            said = zip(graders, verdicts, strict=True)
            total.update(f"{grader} {right}" for grader, right in said if right != case.right)
            differing += [case] * (verdict.right != case.right)
        rates = (f"{total[g]}; {total[f'{g} False']} refused, {total[f'{g} True']} accepted" for g in graders)
        print(f"| {Path(name).name}: {total['all']} | {' | '.join(rates)} |", flush=True)
    for title, rules in (("where the answer is", found), ("how it is compared", compared)):
        print("", f"| {title} | decides | rightly, by {' | '.join(graders)} |", sep="\n")
        print("|---|---|" + "---|" * len(graders))
        for rule, counts in sorted(rules.items(), key=lambda item: -item[1]["all"]):
            print(f"| `{rule}` | {counts['all']} | {' | '.join(str(counts[grader]) for grader in graders)} |")
    if pairs:
        reasons = {(gold, text): why for gold, text, why in ROW.findall(PAGE.read_text(encoding="utf-8"))}
        print("", "| gold answer | response | accepted here | why | from |", "|---|---|---|---|---|", sep="\n")
        print("\n".join(row(case, reasons) for case in differing))


def row(case: Case, reasons: dict[tuple[str, str], str]) -> str:
    """A row of the table of pairs, with the reason that the page has, or a question mark to be filled in."""
    gold, text = (json.dumps(side, ensure_ascii=False)[1:-1] for side in (case.gold, case.response))
    accepted, source = "no" if case.right else "yes", case.source.partition("@")[0]
    return f"| `` {gold} `` | `` {text} `` | {accepted} | {reasons.get((gold, text), '?')} | {source} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--alone", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # a comparison that is cut off is counted under "cut off"
    main(options.files, options.pairs, options.alone)
