r"""Numbers in exact rational arithmetic, as people write them: `1,00,000`, `2 2/3`, `5 million`, `-1.2 x 10^3`, `five`.
`NUMBER` finds them in a text, `number` reads one, `in_digits` turns words into digits. Standard library only."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

ROUNDED_DIGITS = 6  # a decimal of so many significant digits may stand for the value that it rounds: 0.333333 is 1/3
MAX_CHARS = 100  # of a number or a calculation: it bounds the arithmetic

_ONES = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen"
    "|eighteen|nineteen"
)
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_SMALL = dict(zip(f"{_ONES}|{_TENS}".split("|"), (*range(20), *range(20, 100, 10)), strict=True))
_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "lakh": 10**5, "crore": 10**7}
_FACTORS = {"hundred": 100, "dozen": 12} | _LARGE
_PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "hundredth": 100,
}  # fmt: skip
_BELOW_100 = rf"(?:(?:{_TENS})(?:[-\s]+(?:{_ONES}))?|{_ONES})\b"
_BELOW_1000 = rf"(?:(?:an?|{_ONES})\s+hundred\b(?:\s+(?:and\s+)?{_BELOW_100})?|{_BELOW_100})"
_NAMES = rf"(?:\s+(?:{'|'.join(_LARGE)})\b)"
_CARDINAL = re.compile(
    rf"(?i)\b(?:(?:{_BELOW_1000}|a\b){_NAMES}+(?:,?\s+(?:and\s+)?{_BELOW_1000}{_NAMES}*)*|{_BELOW_1000}|an?(?=\s+dozen\b))"
)
_NO_COUNT = "in|the|for|with|by|per|after|from|at|on|each|every|these|both|other|this|that|no"
_COUNT = re.compile("(?i)" + "".join(rf"(?<!\b{w} )" for w in _NO_COUNT.split("|")) + _CARDINAL.pattern[4:])
_PART = re.compile(rf"(?i)(?:\b([0-9]+)\s+and\s+)?(?:\b([0-9]+|an?)[-\s]+)?\b({'|'.join(_PARTS)})(s?)\b(?!-)")
_SIGN_WORD = re.compile(r"(?i)\b(?:negative|minus)\s+(?=[0-9.\\])")

_INTEGER = (
    r"(?:[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}|[0-9]{1,3}(?:[ '][0-9]{3})+|[0-9]{1,3}(?:\.[0-9]{3}){2,}|[0-9]+)(?![0-9])"
)
_TEN_POWER = r"\s*(?:\\times|\\cdot|[*x])\s*10\s*\^\s*(?:\{\s*([-+]?[0-9]{1,3})\s*\}|([-+]?[0-9]{1,3})(?![0-9]))"
_GROUPS = r"[0-9]+(?:,[0-9]{3})*"
_RATIO = rf"(?:\\frac\s*\{{\s*(-?{_GROUPS})\s*\}}\s*\{{\s*({_GROUPS})\s*\}}|([0-9]+)\s*/\s*([0-9]+)(?![0-9]|\.[0-9]))"
_UNSIGNED = (
    rf"(?:(?:({_INTEGER})(?:\s+and\s+|\s+(?=[0-9])|\s*(?=\\frac)))?{_RATIO}"
    rf"|(?=\.?[0-9])({_INTEGER})?(?:\.([0-9]+))?(?<=[0-9])(?:{_TEN_POWER}|[eE]([-+]?[0-9]{{1,3}})(?![0-9A-Za-z]))?)"
    rf"((?:\s*-?\s*\b(?:{'|'.join(_FACTORS)})s?\b)*)(\s*%)?"
)
NUMBER = re.compile(rf"(?:([-+])\s*)?{_UNSIGNED}")
NUMBER_TEXT = re.sub(r"(?<!\\)\((?![?])", "(?:", _UNSIGNED)  # without groups, as a part of other patterns
_OPERATIONS: dict[type, Callable[..., Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip
# Decimals whose last digits repeat for ever: 0.1\overline{6}, 0.1\dot{6}, 0.1(6), 0.1666...
_REPEATING = re.compile(
    r"([-+]?)\s*([0-9]*)\.([0-9]*?)(?:(?:\\(?:overline|bar|dot)\s*\{?|\()([0-9]+)[)}]?|([0-9]+?)\5\5+\.{2,})"
)


@dataclass(frozen=True)
class Number:
    """A rational number as written: `places` is the number of decimals, None if it is exact (3, 1/3)."""

    value: Fraction
    places: int | None = None
    percent: bool = False

    @property
    def rounded(self) -> bool:
        """Whether it has enough digits to stand for a value that it does not equal."""
        return self.places is not None and abs(self.value) * 10**self.places >= 10 ** (ROUNDED_DIGITS - 1)


def same_number(a: Number, b: Number) -> bool:
    """Whether they are equal, or one is the other rounded; if only one has a per cent sign, 10% is 10 and 0.1."""
    if a.percent != b.percent and (a.value / 100 == b.value if a.percent else a.value == b.value / 100):
        return True
    coarse, fine = sorted((a, b), key=lambda side: (side.places is None, side.places or 0))
    near = coarse.rounded and coarse.places != fine.places
    return a.value == b.value or (near and abs(a.value - b.value) * 10 ** (coarse.places or 0) < 1)


def number(text: str) -> Number | None:
    """The number that a text is: an integer, decimal, fraction, mixed number, a times 10^n, 2 million; else None."""
    if len(text) > MAX_CHARS:
        return None
    if not (match := NUMBER.fullmatch(text)):
        if not (match := _REPEATING.fullmatch(text)):
            return None
        sign, whole, before, period, again = match.groups()
        parts = Fraction(int(period or again), 10 ** len(period or again) - 1)
        value = (int(whole + before or "0") + parts) / 10 ** len(before)
        return Number(-value if sign == "-" else value)
    sign, mixed, top, bottom, over, under, whole, decimals, *exponents, factors, percent = match.groups()
    places: int | None = None
    if top or over:
        numerator, denominator = (int(part.replace(",", "")) for part in (top or over, bottom or under))
        if denominator == 0 or (mixed and not 0 <= numerator < denominator):
            return None
        value = int(re.sub("[^0-9]", "", mixed or "0")) + Fraction(numerator, denominator)
    else:
        exponent = int(next((e for e in exponents if e), "0"))
        places = len(decimals or "") - exponent
        value = Fraction(re.sub("[^0-9]", "", whole or "0") + (decimals or "")) / Fraction(10) ** places
    for factor in re.findall(r"[a-z]+", factors.lower()):
        value, places = value * _FACTORS[factor.removesuffix("s")], None
    return Number(-value if sign == "-" else value, places if places and places > 0 else None, bool(percent))


def calculation(text: str) -> Number | None:
    """The value of a text that is a calculation with the four operations, `(16 - 12) / 2`; else None."""
    text = re.sub(r"\\(?:times|cdot)(?![A-Za-z])|×|\bx\b", "*", re.sub(r"\\div(?![A-Za-z])|÷", "/", text))
    if not re.fullmatch(r"(?!.*(?:\*\*|//|\.(?![0-9])|[0-9.]{16}))[-+*/().0-9 ]{0,99}[0-9)] *", text):
        return None
    try:
        return Number(_value(ast.parse(re.sub(r"(?<![0-9.])0+(?=[0-9])", "", text.strip()), mode="eval").body))
    except (SyntaxError, ValueError, ArithmeticError, LookupError, RecursionError, MemoryError):
        return None


def _value(tree: ast.AST) -> Fraction:
    if isinstance(tree, ast.Constant):
        return Fraction(str(tree.value))  # exact up to 15 digits
    operands = [_value(child) for child in ast.iter_child_nodes(tree) if isinstance(child, ast.expr)]
    return _OPERATIONS[type(getattr(tree, "op", None))](*operands)


def in_digits(text: str, counts: bool = False) -> str:
    """The text with numbers in digits, `-4` for `minus four`; with `counts`, words as in `in two days` are left."""
    text = (_COUNT if counts else _CARDINAL).sub(_cardinal, text)
    return _SIGN_WORD.sub("-", _PART.sub(_part, text))


def _cardinal(match: re.Match[str]) -> str:
    total, group = 0, 0
    for word in re.findall(r"[a-z]+", match[0].lower()):
        if word in _LARGE:
            total, group = total + max(group, 1) * _LARGE[word], 0
        elif word == "hundred":
            group = max(group, 1) * 100
        else:
            group += _SMALL.get(word, int(word in ("a", "an")))
    return str(total + group)


def _part(match: re.Match[str]) -> str:
    """A fraction in words; one is followed by a singular and more by a plural, or it is an ordinal."""
    whole, count, name, plural = match.groups("")
    top = int(count) if count.isdigit() else 1
    ordinal = not whole and not count and (match[0] != match.string or name.lower() not in ("half", "quarter"))
    if ordinal or (top == 1) == bool(plural):
        return match[0]
    return rf"{whole}\frac{{{top}}}{{{_PARTS[name.lower()]}}}"
