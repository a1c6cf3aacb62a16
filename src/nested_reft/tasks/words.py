"""Words that are part of an answer's value, as formulas: `2 million`, `three quarters`, `9 p.m.`, `twenty-five`.

Every other word after a number is taken for a unit or for what is counted, and dropped (`spelling`). Standard library
only.
"""

from __future__ import annotations

import re

_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_SMALL = {word: value for value, word in enumerate(_ONES)}
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_MAGNITUDES = {
    "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "lakh": 10**5, "crore": 10**7,
}  # fmt: skip
_FACTORS = {"hundred": 100, "dozen": 12} | _MAGNITUDES
# Denominators. A second is a time, and the third of a row is no fraction: "1 third" and "2 thirds" are.
_PARTS = {
    "half": 2, "quarter": 4, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
_PLURALS = {("halves" if word == "half" else f"{word}s"): value for word, value in _PARTS.items()}
_FRACTION_NAMES = "|".join([*_PARTS, *_PLURALS])

_MEANING = re.compile(
    rf"\b(?:(?:{'|'.join(_FACTORS)})s?|{_FRACTION_NAMES}|[ap]\.?\s?m|noon|midnight|morning|afternoon|evening|night"
    r"|squared|cubed|factorial|infinity)\b",
    re.IGNORECASE,
)
_CARDINAL = re.compile(
    rf"(?:a(?=\s+(?:{'|'.join(_FACTORS)}))|{'|'.join([*_SMALL, *_TENS, *_FACTORS])})\b"
    rf"(?:(?:\s*-\s*|\s+and\s+|\s+)(?:{'|'.join([*_SMALL, *_TENS, *_FACTORS])})\b)*",
    re.IGNORECASE,
)
_FACTOR = re.compile(rf"(?<=[0-9}}])\s*-?\s*\b({'|'.join(_FACTORS)})s?\b", re.IGNORECASE)
_FRACTION = re.compile(
    rf"(?:([0-9]+)\s+and\s+)?(?:([0-9]+|an?)(?:\s+|\s*-\s*))?({_FRACTION_NAMES})\b(?!-)", re.IGNORECASE
)
_POWER = re.compile(r"(?<=[0-9])\s+(squared|cubed)\b", re.IGNORECASE)
_TIME = re.compile(
    r"([0-9]{1,2})(?::([0-9]{2}))?(?::([0-9]{2}))?\s*"
    r"(?:([ap])\.?\s?m\b\.?|(?:in\s+the\s+)?(morning|afternoon|evening)|(noon|midnight))?",
    re.IGNORECASE,
)
# Of two answers that both have such a word, equal ones have the same, or one that means the same.
_DIRECTIONS = {
    word: words[0]
    for words in (["north"], ["south"], ["east"], ["west"], ["left"], ["right"], ["up"], ["down"], ["above"], ["below"],
                  ["clockwise"], ["counterclockwise", "anticlockwise"], ["gain", "profit", "increase"],
                  ["loss", "decrease"], ["bc", "bce"], ["ad", "ce"])
    for word in words
}  # fmt: skip
_DIRECTION = re.compile(rf"\b(?:{'|'.join(_DIRECTIONS)})\b", re.IGNORECASE)


def has_value(words: str) -> bool:
    """Whether words after a number belong to its value, unlike a unit: `million`, `half`, `p.m.`."""
    return _MEANING.search(words) is not None


def as_formula(text: str) -> str:
    """An answer without its words for numbers: `2 million` is `2\\times 10^{6}`, `9 p.m.` is `21:00`."""
    if cardinal := _CARDINAL.match(text):
        text = _value(cardinal[0]) + text[cardinal.end() :]
    if (clock := _TIME.fullmatch(text)) and (time := _time(*clock.groups())):
        return time
    if not re.search(r"[A-Za-z]{4,}", text):
        return text
    text = _POWER.sub(lambda match: "^2" if match[1].lower() == "squared" else "^3", text)
    if (match := _FRACTION.match(text)) and (formula := _fraction(*match.groups())):
        text = formula + text[match.end() :].removeprefix(" of").removeprefix(" an")
    return _FACTOR.sub(lambda match: _times(_FACTORS[match[1].lower()]), text)


def is_time(text: str) -> bool:
    """Whether it is a time of day, in the spelling of `as_formula`."""
    return re.fullmatch(r"[0-9]{2}:[0-9]{2}(?::[0-9]{2})?", text) is not None


def contrary(found: str, expected: str) -> bool:
    """Whether both name a direction or sign in words, and not the same: `5 miles north`, `5 miles south`."""
    a, b = ({_DIRECTIONS[word.lower()] for word in _DIRECTION.findall(text)} for text in (found, expected))
    return bool(a and b) and a != b


def _value(words: str) -> str:
    """A cardinal number in words, as digits: `two hundred and five`."""
    total, group = 0, 0
    for word in re.findall(r"[a-z]+", words.lower()):
        if word in _MAGNITUDES:
            total, group = total + max(group, 1) * _MAGNITUDES[word], 0
        elif word in _FACTORS:
            group = max(group, 1) * _FACTORS[word]
        else:
            group += _SMALL.get(word, _TENS.get(word, 0))
    return str(total + group)


def _times(factor: int) -> str:
    zeros = len(str(factor)) - 1
    return rf"\times 10^{{{zeros}}}" if factor == 10**zeros else rf"\times {factor}"


def _fraction(whole: str | None, count: str | None, name: str) -> str | None:
    """`3 and a half` is a mixed number; one is followed by a singular and more by a plural, or it is an ordinal."""
    name = name.lower()
    top = 1 if count is None or count.lower() in ("a", "an") else int(count)
    if count is None and whole is None and name not in ("half", "quarter"):
        return None
    if name not in (_PARTS if top == 1 else _PLURALS):
        return None
    return rf"{whole or ''}\frac{{{top}}}{{{(_PARTS | _PLURALS)[name]}}}"


def _time(
    hour: str, minute: str | None, second: str | None, half: str | None, part: str | None, twelve: str | None
) -> str | None:
    """The time of day by the 24-hour clock; seconds only if there are any."""
    hours, named = int(hour), half or part or twelve
    if (minute is None and not named) or hours > (12 if named else 24) or int(minute or 0) > 59:
        return None
    if named:
        afternoon = named.lower() in ("p", "afternoon", "evening", "noon")
        hours = hours % 12 + (12 if afternoon else 0)
    seconds = f":{second}" if int(second or 0) else ""
    return f"{hours:02d}:{minute or '00'}{seconds}"
