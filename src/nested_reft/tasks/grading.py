"""Grades a response against a gold answer: the verifiable reward.

The final answer is found in the response (`extraction`, `options`), brought to one spelling (`spelling`) and compared:
numbers, calculations, options, words, lists, tuples and intervals here, in exact rational arithmetic; what needs
algebra by math-verify, in a worker process (`symbolic`) that starts when it is first needed, and is killed at a time
limit. The text of a model is never run as code.

Where benchmarks disagree, this follows the stricter convention, because a false accept teaches a policy to be wrong;
docs/grading.md has all of them. The most important ones:
- a decimal equals an exact value only with six significant digits or more, and is never compared by relative error;
- units after a number are dropped, but single letters are variables: `5 cm` is 5, `5m` is not;
- words that belong to the value are not: `2 million` is 2000000, `9 p.m.` is not `9 a.m.`;
- if only one side has a per cent sign, `10%` is both 10 and 0.1;
- lists and sets have no order, tuples and intervals do; `(0, 1)` is not `[0, 1]`.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from nested_reft.tasks import symbolic
from nested_reft.tasks.answers import (
    MAX_CHARS,
    as_calculation,
    as_number,
    as_text,
    brackets,
    certainly_not,
    decimal_comma,
    same_number,
    split_top,
)
from nested_reft.tasks.extraction import final_answer
from nested_reft.tasks.options import chosen, options
from nested_reft.tasks.spelling import clean
from nested_reft.tasks.words import contrary, is_time

logger = logging.getLogger(__name__)
_cut_off = Counter[str]()

# After so many of the worker's seconds no further part of an answer is compared; one formula has symbolic.TIME_LIMIT.
SECONDS = 1.0
_MAX_DEPTH = 6  # deeper nesting than any answer has; it bounds the recursion on hostile text
_MAX_PARTS = 64  # two lists are matched by trying every pair
_NAME = r"(?:(?:\\(?:text|math[a-z]+|operatorname)\s*\{[A-Za-z ]+\}|\\?[A-Za-z]+)'*(?:_\s*(?:\w|\{[^{}]*\}|\\[a-z]+))?)"
_LEFT_NAME = re.compile(
    rf"\s*{_NAME}(?:\s*\([^()=]*\))?\s*|\s*\(\s*{_NAME}(?:\s*,\s*{_NAME})*\s*\)\s*|\s*\\frac\{{[A-Z]+\}}\{{[A-Z]+\}}\s*"
)
_APPROX = re.compile(r"\\approx(?![A-Za-z])")
_MEMBER = re.compile(rf"^\s*{_NAME}\s*\\in(?![A-Za-z])\s*")
_MATRIX = re.compile(r"\\begin\s*\{(?:[a-zA-Z]?matrix|array)\}")
_ROWS = re.compile(r"\[\s*(\[[^][]*\](?:\s*,\s*\[[^][]*\])*)\s*\]")
# Units of one letter are dropped only if the other answer is a number: 5 m, but not 5m.
_UNIT_LETTER = re.compile(r"(?<=[0-9])\s+[mghsLNJWVAK]$")
_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
_BASED = re.compile(r"-?[0-9A-Z]+_(?:[0-9]|\{[0-9]+\})")
_ALGEBRA = re.compile(r"[0-9+*/^_=<>|!\\-]")


def grade(response: str, gold: str) -> bool:
    """Whether the response's final answer equals the gold answer: the verifiable reward.

    No text makes it raise, and the text of a model is never run as code. A comparison that takes more than about a
    second is cut off, logged as a warning, and counts as wrong.

    Args:
        response: a model's text of any length, or a bare answer.
        gold: a bare answer, or a solution that holds one.

    Returns:
        True if the two answers are equal as numbers, options, words, lists, tuples or intervals in exact arithmetic,
        or else as formulas by math-verify. False if either text has no answer.

    Raises:
        RuntimeError: the worker process that runs math-verify cannot be started, which is a fault of the installation
            and must not be counted as wrong answers.
    """
    expected, letters = _gold_answer(gold)
    if expected is None:
        return False
    if letters and (choice := chosen(response, len(letters) > 1)):
        return choice == letters
    found = final_answer(response)
    if found is None:
        return False
    if found == gold.strip():  # whatever it says
        return True
    try:
        equal = _equal(clean(found[: MAX_CHARS + 1]), clean(expected[: MAX_CHARS + 1]), _Bound())
        return equal and not contrary(found[:MAX_CHARS], expected[:MAX_CHARS])
    except _TooLongError:
        _cut_off["answers"] += 1
        logger.warning("grading was cut off and counts as wrong: answer %.80r, gold %.80r", found, expected)
        return False


@lru_cache(maxsize=1024)  # the completions of one problem share a gold answer
def _gold_answer(gold: str) -> tuple[str | None, frozenset[str]]:
    """The gold answer's text, and its letters if it is one or several options of a multiple-choice question."""
    expected = final_answer(gold)
    return expected, options(gold) or options(expected or "")


def timeouts() -> int:
    """How many answers this process has counted as wrong because their comparison was cut off at a time limit."""
    return _cut_off["answers"]


class _TooLongError(Exception):
    """Ends the comparison of an answer that takes too long."""


@dataclass(frozen=True)
class _Bound:
    """How deep in an answer a comparison is, and the worker's seconds for each part so far."""

    depth: int = 0
    seconds: list[float] = field(default_factory=list)

    def deeper(self) -> _Bound:
        return replace(self, depth=self.depth + 1)


def _equal(found: str, expected: str, bound: _Bound) -> bool:
    if not found or not expected:
        return False
    if as_text(found) == as_text(expected):
        return True
    if bound.depth > _MAX_DEPTH or max(len(found), len(expected)) > MAX_CHARS:
        return False
    a, b = as_number(found), as_number(expected)
    if (value := a or as_calculation(found)) and (other := b or as_calculation(expected)):
        return same_number(value, other)
    if b and (as_decimal_comma := decimal_comma(found)):
        return same_number(as_decimal_comma, b)
    if is_time(found) or is_time(expected):
        return False  # 09:00 is not 9, and 21:00 is another time
    if (a or b) and (bare := as_number(_UNIT_LETTER.sub("", found if b else expected))):
        return same_number(bare, a or b)  # type: ignore[arg-type]
    for rule in _RULES:
        verdict = rule(found, expected, bound)
        if verdict is not None:
            return verdict
    if not (_ALGEBRA.search(found) or _ALGEBRA.search(expected)):
        return False  # two different words, or products of letters
    if _BASED.fullmatch(found) or _BASED.fullmatch(expected):
        return False  # 52_8 is neither 52 nor 42
    number = a or b
    if number and certainly_not(found if b else expected, number):
        return False
    if sum(bound.seconds) > SECONDS:
        raise _TooLongError
    answer = symbolic.equivalent(
        a.latex if a else found,
        b.latex if b else expected,
        number.places if number and number.rounded else None,
    )
    bound.seconds.append(answer.seconds)
    if answer.equal is None:
        raise _TooLongError
    return answer.equal


def _equal_approximations(found: str, expected: str, bound: _Bound) -> bool | None:
    """`1/3 \\approx 0.33` is 0.33 if the gold answer is a decimal, else 1/3."""
    exact, *approximate = _APPROX.split(found)
    if not approximate:
        return None
    number = as_number(expected)
    rounded = bool(number and number.places is not None) or _LEFT_NAME.fullmatch(exact)
    return _equal((approximate[-1] if rounded else exact).strip(), expected, bound.deeper())


def _equal_members(found: str, expected: str, bound: _Bound) -> bool | None:
    """`x \\in [0, 1]` is `[0, 1]`; None if neither side names a member."""
    bare_found, bare_expected = _MEMBER.sub("", found), _MEMBER.sub("", expected)
    if bare_found != found or bare_expected != expected:
        return _equal(bare_found, bare_expected, bound.deeper())
    return None


def _equal_matrices(found: str, expected: str, bound: _Bound) -> bool | None:
    """`[[1, 2], [3, 4]]` against a matrix in LaTeX; None for everything else."""
    a, b = _MATRIX.match(found), _MATRIX.match(expected)
    rows = _ROWS.fullmatch(expected if a else found)
    if bool(a) == bool(b) or not rows:
        return None
    lines = r" \\ ".join(row.replace(",", "&") for row in re.findall(r"\[([^][]*)\]", rows[1]))
    matrix = rf"\begin{{pmatrix}} {lines} \end{{pmatrix}}"
    return _equal(found if a else matrix, expected if b else matrix, bound.deeper())


def _equal_brackets(found: str, expected: str, bound: _Bound) -> bool | None:
    """Tuples, sets, intervals, and an expression in needless brackets; None if neither side is enclosed."""
    a, b = brackets(found), brackets(expected)
    if a is None and b is None:
        return None
    parts_a, parts_b = _parts(a[1] if a else found), _parts(b[1] if b else expected)
    for side, parts, other in ((a, parts_a, expected), (b, parts_b, found)):
        if side and len(parts) == 1 and side[0] in "({":  # grouping only: (5), {5}
            inner = (parts[0], expected) if side is a else (other, parts[0])
            return _equal(*inner, bound.deeper())
    if len(parts_a) != len(parts_b):
        return False if len(parts_a) > 1 and len(parts_b) > 1 else None
    kind_a, kind_b = (a[0] + a[2] if a else ""), (b[0] + b[2] if b else "")
    if {kind_a, kind_b} <= {r"\{\}", "{}", ""}:
        return _matched(parts_a, parts_b, bound)
    if kind_a == kind_b or "" in (kind_a, kind_b) or "{}" in (kind_a, kind_b):
        return _in_order(parts_a, parts_b, bound)
    return False


def _equal_lists(found: str, expected: str, bound: _Bound) -> bool | None:
    """Lists, unions of intervals and plus-minus pairs; None if neither side is one."""
    a, b = _parts(found), _parts(expected)
    if len(a) < 2 and len(b) < 2:
        return None
    if len(a) != len(b) and (r"\cup" in found or r"\cup" in expected):
        return None  # sets that may be equal: the reals without 2, or a union
    if len(b) == 1:  # one value in several forms: 1/2, or 0.5
        return all(_equal(part, expected, bound.deeper()) for part in a)
    if len(a) != len(b):
        return False
    # x = 1, y = 2 against 1, 2: the names gave the order. But x = 1, x = 2 has none.
    ordered = _name_all(a) != _name_all(b)
    return _in_order(a, b, bound) if ordered else _matched(a, b, bound)


def _name_all(parts: Sequence[str]) -> bool:
    """Whether every part is an assignment, and not all to one name."""
    return all(map(_is_assignment, parts)) and len({as_text(_sides(part)[0]) for part in parts}) > 1


def _parts(text: str) -> list[str]:
    text = text.replace(r"\cup", ";") if re.search(r"\\cup(?![A-Za-z])", text) else text
    parts = []
    for part in split_top(text):
        if part.count(r"\pm") == 1:
            parts += [part.replace(r"\pm", sign).strip().removeprefix("+").strip() for sign in "+-"]
        else:
            parts.append(part)
    return parts


def _equal_equations(found: str, expected: str, bound: _Bound) -> bool | None:
    """`x = 5` against `5`, `k = 2/2 = 1`, `y = 2x` against `f(x) = 2x`; None if there is nothing to drop."""
    a, b = _sides(found), _sides(expected)
    if len(a) > 1 and len(b) > 1:
        if _is_assignment(found) and _is_assignment(expected) and _same_name(as_text(a[0]), as_text(b[0])):
            return _equal(a[-1], b[-1], bound.deeper())
        return None
    if len(a) > 1:  # x + y = 7 says 7, as in math-verify
        return _equal(a[-1], expected, bound.deeper())
    if len(b) > 1:  # but 7 does not say x + y = 7
        return (_is_assignment(expected) or not _LETTER.search(expected)) and _equal(found, b[-1], bound.deeper())
    return None


def _same_name(a: str, b: str) -> bool:
    """Whether two left-hand sides are one, or `y` and a function of x."""
    return a == b or ("y" in (a, b) and any(re.fullmatch(r"[a-zA-Z]\(x\)", name) for name in (a, b)))


def _sides(text: str) -> list[str]:
    """The sides of an equation; an equals sign within brackets (\\sum_{k=0}) does not separate any."""
    return split_top(text, "=") or [text]


def _is_assignment(text: str) -> bool:
    sides = _sides(text)
    return len(sides) > 1 and _LEFT_NAME.fullmatch(sides[0]) is not None


def _in_order(a: Sequence[str], b: Sequence[str], bound: _Bound) -> bool:
    return all(_equal(x, y, bound.deeper()) for x, y in zip(a, b, strict=True))


def _matched(a: Sequence[str], b: Sequence[str], bound: _Bound) -> bool:
    """Whether the parts can be paired off; equality is taken as transitive, so the first partner will do."""
    if len(a) > _MAX_PARTS:
        return False
    left = list(b)
    for part in a:
        partner = next((i for i, other in enumerate(left) if _equal(part, other, bound.deeper())), None)
        if partner is None:
            return False
        del left[partner]
    return True


# Each decides, or answers None if the two answers are not of its kind.
_RULES = (
    _equal_approximations, _equal_members, _equal_matrices, _equal_brackets, _equal_lists, _equal_equations,
)  # fmt: skip
