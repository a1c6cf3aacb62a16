"""Whether two cleaned answers are equal: numbers, words, lists, tuples, sets, intervals and equations here, in exact
rational arithmetic; what needs algebra in the worker (`formulas`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from nested_reft.grading import formulas
from nested_reft.grading.exact import same_number
from nested_reft.grading.spelling import WRAPPER, contrary, quantity, without_unit

MAX_CHARS = 2_000  # a longer answer is compared as text only: no maths answer of the benchmarks is half as long
SECONDS = 1.0  # of the worker, after which no further part of an answer is compared; a part has formulas.TIME_LIMIT
_MAX_DEPTH = 6  # deeper nesting than any answer has; it bounds the recursion on adversarial text
_MAX_PARTS = 64  # two lists are matched by trying every pair

# What may stand on the left of an answer, a name of any form: x, f(x), f(2), a_{n}, (p, q), |AB|, A:B, \angle ABC.
_NAME = re.compile(
    r"(?=.*[A-Za-z])(?!.*\\(?:sqrt|log|ln|sum|int|cdot|times|pm)(?![a-z]))"
    r"(?:[^0-9+*^<>=-]|_\s*\{?[0-9]+\}?|\([0-9]+\))+"
)
# Ratios and numbers in another base are compared as text: 2:4 is not 1:2, and 52_8 is neither 52 nor 42.
_AS_WRITTEN = re.compile(r".*:.*|-?[0-9A-Z]+_(?:[0-9]|\{[0-9]+\})")
_AND = re.compile(r"\\(?:text[a-z]*|mbox)\s*\{\s*(?:,?\s*and|,?\s*or)\s*\}|\b(?:and|or)\b")
# A comma that is decimal if the gold answer is one number. A gold answer of 1,22 is two numbers.
_COMMA = re.compile(r"(?<![0-9.,])([0-9]+),([0-9]{1,2}|[0-9]{4,})(?![0-9,])")
_ALGEBRA = re.compile(r"[0-9+*/^_=<>|!\\-]")
# What no formula has: an arrow, a question mark, a lone full stop, an operator at its end; words beside whole numbers.
NO_FORMULA = re.compile(
    r".*(?:->|\?|(?:^| )\.(?: |$)).*|.*(?:[-+*/<>=]|\\times|\\cdot)|(?:(?:[0-9]+|(?!i\b)[A-Za-z]+)(?: |\Z))+"
)


@dataclass
class Trace:
    """The last rule that decided, how deep in an answer a comparison is, and its seconds in the worker."""

    rule: str = "no answer"
    depth: int = 0
    seconds: float = 0.0

    def by(self, rule: str, verdict: bool) -> bool:
        self.rule = rule
        return verdict


def equal(found: str, expected: str, trace: Trace) -> bool:
    """Whether two cleaned answers are equal; false, with more than SECONDS, if that takes the worker too long."""
    if found == expected or not found or not expected:
        return trace.by("text", found == expected != "")
    a, b = quantity(found), quantity(expected)
    if a and b:
        return trace.by("number", same_number(a, b) and not contrary(found, expected))
    if as_text(found) == as_text(expected):
        return trace.by("text", True)
    if trace.depth > _MAX_DEPTH or max(len(found), len(expected)) > MAX_CHARS:
        return trace.by("too long", False)
    if b and "(" not in found and (decimal := quantity(_COMMA.sub(r"\1.\2", found))):
        return trace.by("decimal comma", same_number(decimal, b))
    trace.depth += 1
    verdict = _parts_equal(found, expected, trace)
    verdict = _sides_equal(found, expected, trace) if verdict is None else verdict
    trace.depth -= 1
    if verdict is not None:
        return verdict
    number, other = (a, expected) if a else (b, found)
    if _AS_WRITTEN.fullmatch(found) or _AS_WRITTEN.fullmatch(expected) or (number and NO_FORMULA.fullmatch(other)):
        return trace.by("no formula", False)
    if not (_ALGEBRA.search(found) or _ALGEBRA.search(expected)):
        return trace.by("words", False)  # or products of letters
    if trace.seconds > SECONDS:
        return trace.by("cut off", False)
    sides = (
        rf"\frac{{{n.value.numerator}}}{{{n.value.denominator}}}" if n else without_unit(text)
        for n, text in ((a, found), (b, expected))
    )
    verdict, seconds = formulas.equivalent(*sides, number.places if number and number.rounded else None)
    trace.seconds += seconds
    return trace.by("cut off" if verdict is None else "math-verify", verdict is True)


@lru_cache(maxsize=4096)  # the completions of one problem repeat a few answers
def as_text(text: str) -> str:
    """A cleaned answer as a key for comparison: wrappers opened, spaces dropped (never between digits)."""
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", WRAPPER.sub(r"\1", text))
    text = re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "", text)
    text = re.sub(r"(?<=:[0-9][0-9]):00\Z", "", text)
    text = re.sub(r"(?:(?<=[0-9]):00)?([AaPp])\.?[Mm]\b\.?", lambda half: f"{half[1].lower()}m", text)
    return text.casefold() if re.fullmatch(r"[^\W\d_]{2,}", text) else text


def _parts_equal(found: str, expected: str, trace: Trace) -> bool | None:
    """Lists, sets, tuples and intervals, part by part; None if the answers must be compared as a whole."""
    (kind_a, a), (kind_b, b) = _parts(found), _parts(expected)
    if len(a) == len(b) == 1:
        return None if (a[0], b[0]) == (found, expected) else equal(a[0], b[0], trace)
    if len(a) != len(b):
        if len(b) == 1 and not kind_a:  # one value in several forms: 1/2, or 0.5
            return all(equal(part, expected, trace) for part in a)
        # Or sets that may be equal: an interval and an inequality, the reals without 2 and a union.
        whole = min(len(a), len(b)) == 1 or r"\cup" in found + expected
        return None if whole else trace.by("lists", False)
    if len(a) > _MAX_PARTS or len({kind_a, kind_b} - {"", "{}"}) == 2:
        return trace.by("lists", False)
    # x = 1, y = 2 against 1, 2: the names gave the order. But x = 1, x = 2 has none.
    if not {kind_a, kind_b} <= {"", "{}", r"\{\}"} or _name_all(a) != _name_all(b):
        return all(equal(x, y, trace) for x, y in zip(a, b, strict=True))
    left = list(b)
    for part in a:  # equality is taken as transitive, so the first partner will do
        partner = next((i for i, other in enumerate(left) if equal(part, other, trace)), None)
        if partner is None:
            return False
        del left[partner]
    return True


def _sides_equal(found: str, expected: str, trace: Trace) -> bool | None:
    """`x = 5` against `5`, `k = 2/2 = 1`, `x = 5` against `x = 5.0`; None if there is nothing to drop."""
    a, b = split_top(found, "="), split_top(expected, "=")
    if len(a) > 1 and len(b) > 1:
        return equal(a[-1], b[-1], trace) if _name(a) == _name(b) != "" else None
    if len(a) > 1:  # x + y = 7 says 7, as in math-verify
        return equal(a[-1], expected, trace)
    if len(b) > 1:  # but 7 does not say x + y = 7
        says = _name(b) or not re.search(r"[A-Za-z]", expected)
        return equal(found, b[-1], trace) if says else trace.by("equations", False)
    return None


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
def _parts(text: str) -> tuple[str, list[str]]:
    """The brackets around an answer of several parts, and these: two in `p = 5, q = 2; p = 7, q = 2` and `1 \\pm x`."""
    kind, inner = "", text
    match = re.fullmatch(r"(\(|\[|\\?\{)(.+?)(\)|\]|\\?\})", text)
    if match and (match[1] in "([") == (match[3] in ")]") and split_top(match[2]):
        kind, inner = match[1] + match[3], match[2]
    if _AND.search(inner):
        inner = _AND.sub(",", WRAPPER.sub(r" \1 ", inner))
    inner = re.sub(r"\\cup(?![A-Za-z])", ";", inner)
    rows = [split_top(row, ",") for row in split_top(inner, ";")]
    if len(rows) > 1 and all(len(row) > 1 and _name_all(row) for row in rows):
        return kind, [f"({', '.join(split_top(part, '=')[-1] for part in row)})" for row in rows]
    parts = []
    for part in split_top(inner):
        signs = "+-" if part.count(r"\pm") == 1 else "+"
        parts += [part.replace(r"\pm", sign).strip().removeprefix("+").strip() for sign in signs]
    return (kind, parts) if len(parts) > 1 else ("", parts or [text])


def _name_all(parts: list[str]) -> bool:
    """Whether every part is an assignment, and not all to one name."""
    names = {_name(split_top(part, "=")) for part in parts}
    return len(names) > 1 and "" not in names


def _name(sides: list[str]) -> str:
    """The name on the left of an equation with these sides, if it has one; y and f(x) are the same."""
    return as_text(sides[0]).replace("f(x)", "y") if len(sides) > 1 and _NAME.fullmatch(sides[0]) else ""
