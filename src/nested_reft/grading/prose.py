r"""Formulas, numbers and calculations in prose: which of them a sentence ends with. Standard library only."""

from __future__ import annotations

import re

from nested_reft.grading.exact import NUMBER_TEXT, calculation, in_digits, number
from nested_reft.grading.spelling import TOKENS, WRAPPER, as_latex, without_units

SENTENCE_CHARS = 2_000  # a sentence that has the answer is read up to so many characters

_DOLLAR = re.compile(r"(?<!\\)\$\$?")
_HIGHLIGHT = re.compile(r"==(\S[^=\n]{0,200}?)==")
_POWER = re.compile(r"(?<=[0-9A-Za-z)])\*\*(?=-?[0-9(])")
DELIMITED = re.compile(r"\\\(.{1,2000}?\\\)|\\\[.{1,2000}?\\\]", re.DOTALL)
_LONG_WORD = re.compile(r"[A-Za-z]{3,}")
COMMAND = re.compile(r"\\(?:begin|end)\s*\{[a-z]+\*?\}|\\[A-Za-z]+")

_NOT_AFTER = r"(?<![A-Za-z0-9_.^\\{])"
_SIGNED = (
    rf"\(*\s*(?:(?<![\w)}}\]])[-+]|(?<=[=(,<>])\s*-\s*)?(?:[0-9]+,[0-9]{{1,2}}(?![0-9,])|{NUMBER_TEXT})"
    r"(?![A-Za-z\\^_{])\)*"
)
_OPERATOR = (
    r"\s*(?:\\times|\\cdot|\\div|\\approx|->|[-+*/=<>^:]|\bx(?=\s*[-(0-9.])|\b(?:times|plus|minus)\b(?=\s*[-(0-9.]))\s*"
)
# A number or a calculation, which may break off; a number that letters follow, as in 5x, is no number by itself.
_EXPRESSION = re.compile(
    rf"{DELIMITED.pattern}|{_NOT_AFTER}{_SIGNED}(?:(?:{_OPERATOR}|(?=\()){_SIGNED})*"
    rf"(?:\s*[ap]\.?m\b|\s*(?:->|[-+*/=])\s*$)?|{_NOT_AFTER}[0-9.]*[0-9](?=[A-Za-z\\^_{{])[^\s,;]*",
    re.DOTALL,
)
_ORDINAL = re.compile(r"([0-9]+)(?:st|nd|rd|th)\b")
_LETTER_UNIT = re.compile(r"(?<=[0-9])(?:[gmlLAWV]|[MG]b)\b(?!\s*[-+*/^(=]\s*[a-z]\b)")
_JOINT = re.compile(r"\s*(?:,?\s*\b(?:and|or)\b|,|;)\s*")
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*(?!\s*:)")
_PART_OF = re.compile(r"\s*(?:\w+\s+)?(?:out\s+)?of\s+(?:the\s+|all\s+)?")
# A number in words after these says when, where or of what, not how many; and none counts after a calculation.
_CONTEXT = re.compile(
    r"=|\b(?:in|the|for|with|by|per|after|from|at|on|each|every|these|both|other|this|that|no)\s+$", re.I
)
# How a value begins: with a digit, a command or formula, a variable.
_VALUE = re.compile(
    r"[\s*_`\"'=:>~|]*(?:[-+(\[]\s*)*(?:\.?[0-9]|[-+]?\\(?!\))"
    r"|(?-i:[B-HJ-Zb-z]|[Aa](?!\s+[a-z]))(?![A-Za-z'])|[A-Za-z]{1,4}\s?[-+*/^=_(])"
)


def prepared(text: str) -> str:
    r"""The text in ASCII with `\(`, `\[` around its formulas, and no dollar signs of money, nor markers of its end."""
    text = as_latex(TOKENS.sub(" ", text) if "<" in text else text)
    text = _delimited(text) if "$" in text else text
    text = _POWER.sub("^", _HIGHLIGHT.sub(r"\1", text))
    return DELIMITED.sub(lambda match: match[0].replace("\n", " "), text)


def _delimited(text: str) -> str:
    """Dollar signs in pairs around a formula become its delimiters; others are money, and dropped."""
    pieces = []
    while opening := _DOLLAR.search(text):
        closing = _DOLLAR.search(text, opening.end())
        content = text[opening.end() : closing.start()] if closing else ""
        pieces.append(text[: opening.start()])
        if closing and closing[0] == opening[0] and _is_formula(content, text[closing.end() : closing.end() + 1]):
            pieces.append(rf"\[{content}\]" if closing[0] == "$$" else rf"\({content}\)")
            text = text[closing.end() :]
        else:
            pieces.append("" if pieces[-1].endswith("-") else " ")
            text = text[opening.end() :]
    return "".join(pieces) + text


def _is_formula(content: str, after: str) -> bool:
    """Whether a text between dollar signs is a formula, and not `3, so 3 friends pay ` or `12 - `."""
    if not content.strip() or len(content) > SENTENCE_CHARS:
        return False
    if content.lstrip()[0] in "0123456789" and (after.isdigit() or content[0].isspace() != content[-1].isspace()):
        return False
    return len(_LONG_WORD.findall(COMMAND.sub(" ", WRAPPER.sub(" ", content)))) < 2


def last_expression(sentence: str, first: bool = False) -> str | None:
    """The last formula, number or calculation of a sentence (or the first), with those that are listed with it."""
    if not first and (value := bold(sentence)):
        return last_expression(value)
    sentence = without_units(in_digits(sentence.replace("**", ""), _CONTEXT))
    if "=" in sentence:
        sentence = _LETTER_UNIT.sub("", _ORDINAL.sub(r"\1", sentence))
    spans = list(_EXPRESSION.finditer(sentence))
    while not first and len(spans) > 1 and _PART_OF.fullmatch(sentence[spans[-2].end() : spans[-1].start()]):
        spans.pop()  # 5 of the 8
    group = spans[:1] if first else spans[-1:]
    for span in spans[1:] if first else spans[-2::-1]:
        left, right = (group[-1], span) if first else (span, group[0])
        if not _JOINT.fullmatch(sentence[left.end() : right.start()]):
            break
        group.insert(len(group) if first else 0, span)
    texts = [match[0][2:-2] if match[0].startswith(("\\(", "\\[")) else match[0] for match in group]
    if any("=" in match[0] and not match[0].startswith("\\") for match in group):  # steps, of which the last counts
        return _result(texts[-1])
    return ", ".join(text.strip() for text in texts) or None


def bold(sentence: str) -> str | None:
    """The last value in bold type, which models put around their answer."""
    texts = [text for text in _BOLD.findall(sentence) if starts_with_value(text) and not text.endswith((".", ":"))]
    return texts[-1] if texts else None


def _result(step: str) -> str:
    """The right side of a calculation; a magnitude after it is a unit if the calculation says so: 24/12 = 2 dozen."""
    left, _, right = step.rpartition("=")
    value, plain = calculation(left.rpartition("=")[2].strip()), re.match(r"\s*[-+]?[0-9.,]+", right)
    return plain[0] if plain and value and (found := number(plain[0].strip())) and found.value == value.value else right


def starts_with_value(text: str) -> bool:
    return _VALUE.match(in_digits(text)) is not None
