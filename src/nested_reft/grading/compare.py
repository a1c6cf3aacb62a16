"""Whether two cleaned answers are equal: numbers, words, lists, tuples, sets, intervals and equations here, in exact
rational arithmetic; what needs algebra in the worker (`formulas`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from nested_reft.grading import formulas
from nested_reft.grading.exact import Number, decimal_comma, same_number, time_of_day
from nested_reft.grading.spelling import WRAPPER, as_list, qualifiers, quantity, spaced_letter, without_unit

MAX_CHARS = 2_000  # a longer answer is compared as text only: no maths answer of the benchmarks is half as long
# After so many of the worker's seconds no further part of an answer is compared; one formula has formulas.TIME_LIMIT.
SECONDS = 1.0
_MAX_DEPTH = 6  # deeper nesting than any answer has; it bounds the recursion on hostile text
_MAX_PARTS = 64  # two lists are matched by trying every pair

_LETTERS = (
    r"(?:\\(?:text|math[a-z]+|overline)\s*\{[A-Za-z ]+\}|\\?[A-Za-z]+)'*"
    r"(?:_\s*(?:\w|\{[^{}]*\}|\\[a-z]+))?"
)
# What may stand on the left of an answer: x, f(x), a_{n}, (p, q), |AB|, A:B, NO/BO, \angle ABC.
_NAME = rf"(?:m?\\(?:angle|triangle|overline|sin|cos|tan)\s*)?{_LETTERS}(?:\s*\([^()=]*\))?"
_LEFT_NAME = re.compile(
    rf"\s*(?:{_NAME}(?:\s*[:/]\s*{_NAME})*|\|\s*{_NAME}\s*\||\(\s*{_NAME}(?:\s*,\s*{_NAME})*\s*\)"
    rf"|\\frac\{{[A-Z]+\}}\{{[A-Z]+\}}|[A-Za-z]+(?: [A-Za-z]+)*)\s*"
)
_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
_BASED = re.compile(r"-?[0-9A-Z]+_(?:[0-9]|\{[0-9]+\})")
_ALGEBRA = re.compile(r"[0-9+*/^_=<>|!\\-]")
# What no formula has: an arrow, a question mark, a full stop by itself, or an operator at its end; and words and whole
# numbers side by side, which as a formula are a product of many variables.
NO_FORMULA = re.compile(
    r".*(?:->|\?|(?:^| )\.(?: |$)).*|.*(?:[-+*/<>=]|\\times|\\cdot)|(?:(?:[0-9]+|(?!i\b)[A-Za-z]+)(?: |\Z))+"
)


class TooLongError(Exception):
    """Ends the comparison of an answer that takes too long."""


@dataclass
class Trace:
    """The last rule that decided, and how deep in an answer and how long in the worker a comparison is."""

    rule: str = "no answer"
    depth: int = 0
    seconds: list[float] = field(default_factory=list)

    def by(self, rule: str, verdict: bool) -> bool:
        self.rule = rule
        return verdict


def equal(found: str, expected: str, trace: Trace) -> bool:
    """Whether two cleaned answers are equal. TooLongError if the worker is cut off."""
    if not found or not expected:
        return trace.by("empty", False)
    if found == expected:
        return trace.by("text", True)
    a, b = quantity(found), quantity(expected)
    if a and b:
        return trace.by("number", same_number(a, b) and not _contrary(found, expected))
    if as_text(found) == as_text(expected):
        return trace.by("text", True)
    if trace.depth > _MAX_DEPTH or max(len(found), len(expected)) > MAX_CHARS:
        return trace.by("too long", False)
    times = [time_of_day(WRAPPER.sub(r"\1", text)) for text in (found, expected)]
    if any(times):  # 09:00 is not 9, and 21:00 is another time
        return trace.by("time of day", times[0] == times[1])
    if b and (with_point := decimal_comma(found)) != found and (decimal := quantity(with_point)):
        return trace.by("decimal comma", same_number(decimal, b))
    number = a or b
    if number and (bare := quantity(spaced_letter(found if b else expected))):
        return trace.by("number", same_number(bare, number))
    trace.depth += 1
    for rule in (_enclosed, _lists, _equations):
        if (verdict := rule(found, expected, trace)) is not None:
            trace.depth -= 1
            return verdict
    trace.depth -= 1
    if not (_ALGEBRA.search(found) or _ALGEBRA.search(expected)):
        return trace.by("words", False)  # or products of letters
    if ":" in found + expected or _BASED.fullmatch(found) or _BASED.fullmatch(expected):
        return trace.by("text", False)  # 52_8 is neither 52 nor 42, and 2:4 is not 1:2
    if number and NO_FORMULA.fullmatch(found if b else expected):
        return trace.by("no formula", False)
    if sum(trace.seconds) > SECONDS:
        raise TooLongError
    answer = formulas.equivalent(
        _latex(a) if a else without_unit(found),
        _latex(b) if b else without_unit(expected),
        number.places if number and number.rounded else None,
    )
    trace.seconds.append(answer.seconds)
    if answer.equal is None:
        raise TooLongError
    return trace.by("math-verify", answer.equal)


@lru_cache(maxsize=4096)  # the completions of one problem repeat a few answers
def as_text(text: str) -> str:
    """A cleaned answer as a key for comparison: wrappers opened, spaces dropped (never between digits)."""
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", WRAPPER.sub(r"\1", text))
    text = re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "", text)
    return text.casefold() if re.fullmatch(r"[^\W\d_]{2,}", text) else text


def _latex(number: Number) -> str:
    return rf"\frac{{{number.value.numerator}}}{{{number.value.denominator}}}"


def _contrary(found: str, expected: str) -> bool:
    """Whether each says something beside its number that the other does not: `5 miles north`, `5 miles south`."""
    if not _LETTER.search(expected) or not _LETTER.search(found):
        return False
    a, b = qualifiers(found), qualifiers(expected)
    return bool(a - b and b - a)


# --- each of these decides, or answers None if the two answers are not of its kind ----------------------------------


def _enclosed(found: str, expected: str, trace: Trace) -> bool | None:
    """Tuples, sets, intervals, and an expression in needless brackets; None if neither side is enclosed."""
    a, b = _brackets(found), _brackets(expected)
    if a is None and b is None:
        return None
    parts_a, parts_b = _parts(a[1] if a else found), _parts(b[1] if b else expected)
    kind_a, kind_b = (side[0] + side[2] if side else "" for side in (a, b))
    grouping = (r"\{\}", "()", "{}", "[]")
    if len(parts_a) == 1 and kind_a in grouping:
        return equal(parts_a[0], expected, trace)
    if len(parts_b) == 1 and kind_b in grouping:
        return equal(found, parts_b[0], trace)
    if len(parts_a) != len(parts_b):
        return trace.by("tuples", False) if len(parts_a) > 1 and len(parts_b) > 1 else None
    if {kind_a, kind_b} <= {r"\{\}", "{}", ""}:
        return _matched(parts_a, parts_b, trace)
    if kind_a == kind_b or "" in (kind_a, kind_b) or "{}" in (kind_a, kind_b):
        return _in_order(parts_a, parts_b, trace)
    return trace.by("tuples", False)


def _lists(found: str, expected: str, trace: Trace) -> bool | None:
    """Lists, unions of intervals and plus-minus pairs; None if neither side is one."""
    a, b = _parts(found), _parts(expected)
    if (len(a) < 2 and len(b) < 2) or (len(a) != len(b) and r"\cup" in found + expected):
        return None  # or sets that may be equal: the reals without 2, or a union
    if len(b) == 1:  # one value in several forms: 1/2, or 0.5
        return all(equal(part, expected, trace) for part in a)
    if len(a) != len(b):
        return trace.by("lists", False)
    # x = 1, y = 2 against 1, 2: the names gave the order. But x = 1, x = 2 has none.
    return _in_order(a, b, trace) if _name_all(a) != _name_all(b) else _matched(a, b, trace)


def _equations(found: str, expected: str, trace: Trace) -> bool | None:
    """`x = 5` against `5`, `k = 2/2 = 1`, `y = 2x` against `f(x) = 2x`; None if there is nothing to drop."""
    a, b = split_top(found, "=") or [found], split_top(expected, "=") or [expected]
    if len(a) > 1 and len(b) > 1:
        names = {as_text(a[0]), as_text(b[0])}
        same = len(names) == 1 or ("y" in names and any(re.fullmatch(r"[a-zA-Z]\(x\)", name) for name in names))
        return equal(a[-1], b[-1], trace) if same and _is_assignment(found) and _is_assignment(expected) else None
    if len(a) > 1:  # x + y = 7 says 7, as in math-verify
        return equal(a[-1], expected, trace)
    if len(b) > 1:  # but 7 does not say x + y = 7
        named = _is_assignment(expected) or not _LETTER.search(expected)
        return equal(found, b[-1], trace) if named else trace.by("equations", False)
    return None


def _in_order(a: Sequence[str], b: Sequence[str], trace: Trace) -> bool:
    return all(equal(x, y, trace) for x, y in zip(a, b, strict=True))


def _matched(a: Sequence[str], b: Sequence[str], trace: Trace) -> bool:
    """Whether the parts can be paired off; equality is taken as transitive, so the first partner will do."""
    left = list(b) if len(a) <= _MAX_PARTS else []
    for part in a:
        partner = next((i for i, other in enumerate(left) if equal(part, other, trace)), None)
        if partner is None:
            return False
        del left[partner]
    return True


# --- the parts of an answer -----------------------------------------------------------------------------------------


def split_top(text: str, separators: str = ",;") -> list[str]:
    """The parts of a text between the separators outside all brackets; [] if brackets are unbalanced."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return []
        if character in separators and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    return [part for part in [*parts, text[start:].strip()] if part] if depth == 0 else []


@lru_cache(maxsize=4096)
def _brackets(text: str) -> tuple[str, str, str] | None:
    """Opening bracket, content and closing bracket if one pair encloses the whole answer; else None."""
    match = re.fullmatch(r"(\\\{|[(\[{])(.+?)(\\\}|[)\]}])", text)
    if match is None or match[1] + match[3] not in (r"\{\}", "()", "[]", "(]", "[)", "{}") or not split_top(match[2]):
        return None
    return match[1], match[2], match[3]


@lru_cache(maxsize=4096)
def _parts(text: str) -> list[str]:
    """The parts of a list; `p = 5, q = 2; p = 7, q = 2` has two, each a tuple."""
    text = re.sub(r"\\cup(?![A-Za-z])", ";", as_list(text))
    rows = [split_top(row, ",") for row in split_top(text, ";")]
    if len(rows) > 1 and all(len(row) > 1 and _name_all(row) for row in rows):
        return [f"({', '.join(split_top(part, '=')[-1] for part in row)})" for row in rows]
    parts = []
    for part in split_top(text):
        signs = "+-" if part.count(r"\pm") == 1 else "+"
        parts += [part.replace(r"\pm", sign).strip().removeprefix("+").strip() for sign in signs]
    return parts


def _name_all(parts: Sequence[str]) -> bool:
    """Whether every part is an assignment, and not all to one name."""
    return all(map(_is_assignment, parts)) and len({as_text(part.partition("=")[0]) for part in parts}) > 1


def _is_assignment(text: str) -> bool:
    r"""Whether it is a name, an equals sign and a value; one within brackets (\sum_{k=0}) is none."""
    sides = split_top(text, "=")
    return len(sides) > 1 and _LEFT_NAME.fullmatch(sides[0]) is not None
