"""Reads one answer: its plain text, the number or calculation it is, or the parts of a list, tuple, set or interval.

Standard library only. A decimal may be a rounded value, so `Number` keeps how many places were written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

# A longer answer is compared as text only: no maths answer of the benchmarks is half as long.
MAX_CHARS = 2_000
# A decimal of at least this many significant digits may stand for the exact value that rounds to it (1/3 = 0.333333).
ROUNDED_DIGITS = 6

_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+|[0-9]+)"
_DECIMAL = re.compile(
    rf"([-+]*)\s*[€£]?\s*({_INTEGER})?(?:\.([0-9]*))?"
    r"(?:\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{\s*([-+]?[0-9]{1,3})\s*\}|([0-9]))|[eE]([-+]?[0-9]{1,3}))?\s*(%?)"
)
_FRACTION = re.compile(
    r"([-+]?)\s*(?:([0-9]+)\s*(?=\\frac|\s[0-9]))?\s*"
    r"(?:\\frac\s*(?:\{\s*(-?[0-9]+)\s*\}|([0-9]))\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))|(-?[0-9]+)\s*/\s*([0-9]+))\s*(%?)"
)
# 0.1\overline{6}, 0.\dot{1}4285\dot{7}, 0.(3), and 0.333... if its digits say what goes on.
_REPEATING = re.compile(
    r"([-+]?)\s*([0-9]*)\.([0-9]*)(?:\\(?:overline|bar)\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))|\(([0-9]+)\)"
    r"|\\dot\s*(?:\{\s*([0-9])\s*\}|([0-9]))(?:([0-9]*)\\dot\s*(?:\{\s*([0-9])\s*\}|([0-9])))?)\s*(%?)"
)
_CONTINUED = re.compile(r"([-+]?)\s*([0-9]*)\.([0-9]*?)([0-9]+?)\4\4+\.{2,}()")
_CALCULATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+|\\(?:times|cdot|div)(?![A-Za-z])|[-+*/×·÷()])")
_TIMES, _OVER = ("*", "×", "·", r"\times", r"\cdot"), ("/", "÷", r"\div")
# What no formula has: an arrow, a question mark, a full stop by itself, or an operator at its end, as in an answer that
# was cut off.
_NO_FORMULA = re.compile(r"->|\?|(?:^| )\.(?: |$)|(?:[-+*/<>=]|\\times|\\cdot)$")
# Words and whole numbers side by side: as a formula, a product of many variables.
_WORDS = re.compile(r"(?:[0-9]+|[A-Za-z]+)(?: (?:[0-9]+|[A-Za-z]+))*")
WRAPPER = re.compile(r"\\(?:text[a-z]*|mbox|math(?:rm|bf|it|sf|cal)|operatorname|underline)\s*\{([^{}]*)\}")


@dataclass(frozen=True)
class Number:
    """A rational number as written: `places` is the number of decimals, None if it is exact (3, 1/3)."""

    value: Fraction
    places: int | None = None
    percent: bool = False

    @property
    def latex(self) -> str:
        """The number for a grammar that would read 1e-10 as 1 e - 10."""
        return rf"\frac{{{self.value.numerator}}}{{{self.value.denominator}}}"

    @property
    def rounded(self) -> bool:
        """Whether it has enough digits to stand for a value that it does not equal."""
        return self.places is not None and abs(self.value) * 10**self.places >= 10 ** (ROUNDED_DIGITS - 1)

    def rounds_from(self, exact: Fraction) -> bool:
        """Whether this decimal has enough digits and is `exact` rounded or truncated."""
        return self.places is not None and self.rounded and abs(exact - self.value) * 10**self.places < 1


def same_number(a: Number, b: Number) -> bool:
    """Whether they are equal, or one is the other rounded; if only one has a per cent sign, 10% is 10 and 0.1."""
    if a.percent != b.percent:
        marked, other = (a, b) if a.percent else (b, a)
        as_parts = Number(marked.value / 100, None if marked.places is None else marked.places + 2)
        return _same(Number(marked.value, marked.places), other) or _same(as_parts, other)
    return _same(a, b)


def _same(a: Number, b: Number) -> bool:
    if a.value == b.value:
        return True
    coarse, fine = (a, b) if b.places is None or (a.places is not None and a.places <= b.places) else (b, a)
    return coarse.places != fine.places and coarse.rounds_from(fine.value)


def as_text(text: str) -> str:
    """A cleaned answer as a key for comparison: wrappers opened, spaces dropped (never between digits)."""
    text = WRAPPER.sub(r"\1", text)
    text = re.sub(r"_\{(\w)\}", r"_\1", re.sub(r"\^\{(\w)\}", r"^\1", text))
    text = re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "", text)
    return text.casefold() if re.fullmatch(r"[A-Za-z]{2,}", text) else text


def as_number(text: str) -> Number | None:
    """The number in a cleaned answer that is an integer, decimal, fraction, mixed number or a times 10^n; else None."""
    if len(text) > 100 or not re.search(r"[0-9]", text):
        return None
    text = text.strip("{} ") if re.fullmatch(r"\{[^{}]*\}", text) else text
    if match := _DECIMAL.fullmatch(text):
        signs, whole, decimals, *exponents, percent = match.groups()
        if whole is None and not decimals:
            return None
        digits = re.sub(r"[, ]", "", whole or "0")
        exponent = int(next((e for e in exponents if e), "0"))
        value = Fraction(int(digits + (decimals or "")), 10 ** len(decimals or "")) * Fraction(10) ** exponent
        places = len(decimals or "") - exponent
        return Number(-value if signs.count("-") % 2 else value, places if places > 0 else None, bool(percent))
    if match := _FRACTION.fullmatch(text):
        sign, whole, *parts, percent = match.groups()
        top, bottom = (int(part) for part in parts if part is not None)
        if bottom == 0 or (whole and top < 0):
            return None
        value = Fraction(int(whole or 0)) + Fraction(top, bottom)
        return Number(-value if sign == "-" else value, None, bool(percent))
    if "." in text and (match := _REPEATING.fullmatch(text) or _CONTINUED.fullmatch(text)):
        return _repeating(*match.groups())
    return None


def decimal_comma(text: str) -> Number | None:
    """`1,22` as 1.22, in a response whose gold answer is one number. A gold answer of 1,22 is two numbers."""
    return as_number(text.replace(",", ".")) if re.fullmatch(r"-?[0-9]+,[0-9]+", text) else None


def as_calculation(text: str) -> Number | None:
    """The value of a cleaned answer that is a calculation with the four operations, `(16 - 12) / 2`; else None."""
    if len(text) > 100:
        return None
    tokens, end = [], 0
    while end < len(text) and (match := _CALCULATION.match(text, end)):
        tokens.append(match[1])
        end = match.end()
    if text[end:].strip():
        return None
    try:
        value, rest = _sum(tokens)
    except (IndexError, ValueError, ZeroDivisionError):
        return None
    return None if rest else Number(value)


def _sum(tokens: list[str]) -> tuple[Fraction, list[str]]:
    """The value of the longest sum at the start of the tokens, and the tokens after it."""
    value, tokens = _product(tokens)
    while tokens and tokens[0] in "+-":
        sign = tokens[0]
        term, tokens = _product(tokens[1:])
        value = value + term if sign == "+" else value - term
    return value, tokens


def _product(tokens: list[str]) -> tuple[Fraction, list[str]]:
    value, tokens = _factor(tokens)
    while tokens and tokens[0] in _TIMES + _OVER:
        operator = tokens[0]
        factor, tokens = _factor(tokens[1:])
        value = value * factor if operator in _TIMES else value / factor
    return value, tokens


def _factor(tokens: list[str]) -> tuple[Fraction, list[str]]:
    first, *rest = tokens
    if first in "+-":
        value, rest = _factor(rest)
        return (value if first == "+" else -value), rest
    if first == "(":
        value, rest = _sum(rest)
        if rest[0] != ")":
            raise ValueError("the bracket is not closed")
        return value, rest[1:]
    return Fraction(first), rest


def certainly_not(text: str, number: Number) -> bool:
    """Whether a cleaned answer that is no number cannot equal this one, as it is no formula, or a product of words."""
    if _NO_FORMULA.search(text):
        return True
    if number.value == 0 or not _WORDS.fullmatch(text):  # a product may be 0
        return False
    # i * i is -1.
    return not any(set(word.casefold()) == {"i"} for word in text.split())


def _repeating(sign: str, whole: str, before: str, *rest: str | None) -> Number:
    """A decimal whose last digits repeat for ever, exactly."""
    *periods, percent = rest
    period = "".join(part for part in periods if part)
    nines = 10 ** len(period) - 1
    value = (int((whole + before) or "0") + Fraction(int(period), nines)) / 10 ** len(before)
    return Number(-value if sign == "-" else value, None, bool(percent))


def split_top(text: str, separators: str = ",;") -> list[str]:
    """The parts of a text between the separators outside all brackets; [] if brackets are unbalanced."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth < 0:
                return []
        elif character in separators and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    return [part for part in [*parts, text[start:].strip()] if part] if depth == 0 else []


def brackets(text: str) -> tuple[str, str, str] | None:
    """Opening bracket, content and closing bracket if one pair encloses the whole cleaned answer; else None."""
    for opening, closing in ((r"\{", r"\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), ("{", "}")):
        if not (text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing)):
            continue
        inside = text[len(opening) : -len(closing)]
        if split_top(inside):
            return opening, inside.strip(), closing
    return None
