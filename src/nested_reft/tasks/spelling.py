r"""Brings an answer to one spelling: LaTeX and Unicode, units, option letters, reasons, words for numbers.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from nested_reft.tasks.answers import WRAPPER
from nested_reft.tasks.unicode_maths import as_latex
from nested_reft.tasks.words import as_formula, has_value

# Numbers, tuples and lists of them, in which there is nothing to change.
_PLAIN = re.compile(r"[-0-9,()\[\] ]*(?:\.[0-9][-0-9,()\[\] ]*)*")
_TEXT = r"\\(?:text[a-z]*|mbox)\s*\{"
# Each with a string that a text must have for it, which is faster to look for than the pattern.
_SPELLINGS: list[tuple[str, str, str | Callable[[re.Match[str]], str]]] = [
    ("\\end", r"\\\\\s*(?=\\end(?![A-Za-z]))", ""),  # no row after the last one
    ("\\", r"\s*\\!\s*|\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])|\\displaystyle(?![A-Za-z])", ""),
    ("color", r"\\(?:text)?color\s*\{[^{}]*\}", ""),
    ("frac", r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    ("frac\\pi", r"\\frac\\pi\s*(\w)", r"\\frac{\\pi}{\1}"),
    (",", r"\{\s*,\s*\}", ","),
    (",", r"(?<![\\_])\{\s*([0-9]{1,3}(?:,[0-9]{3})+)\s*\}", lambda match: f"{{{match[1].replace(',', '')}}}"),
    ("", r'\\?["“”]', ""),
    ("<=", r"<=", r"\\le "),
    (">=", r">=", r"\\ge "),
    ("!=", r"!=", r"\\ne "),
    ("=", r"[:=]=", "="),
    ("**", r"(?<=[0-9A-Za-z)}])\*\*(?=[0-9A-Za-z({-])", "^"),
    (".", r"(?<=[0-9])\.(?![0-9.]|\([0-9]+\)|\\(?:overline|bar|dot))", ""),  # 5. and -1./3
    ("dots", r"(?<=[0-9])\s*\\[lc]?dots\s*$", "..."),
    ("dots", r"\\c?dots(?![A-Za-z])", r"\\ldots"),
    ("", r"(?<!\\)\\(?:[,;:> ]|q?quad(?![A-Za-z]))|~", " "),
    ("angle", r"\\langle(?![A-Za-z])", "("),
    ("angle", r"\\rangle(?![A-Za-z])", ")"),
    ("brace", r"\\lbrace(?![A-Za-z])", r"\\{"),
    ("brace", r"\\rbrace(?![A-Za-z])", r"\\}"),
    ("\\le", r"\\leq(?:slant)?(?![A-Za-z])", r"\\le"),
    ("\\ge", r"\\geq(?:slant)?(?![A-Za-z])", r"\\ge"),
    ("\\neq", r"\\neq(?![A-Za-z])", r"\\ne"),
    ("\\lt", r"\\lt(?![A-Za-z])", "<"),
    ("\\gt", r"\\gt(?![A-Za-z])", ">"),
    ("", r"\\\$|\$|(?<!\\)\\[\[\]()]", ""),
    ("%", r"\\%", "%"),
    ("", r"\s*\b(?:percentage|percent|pct|per cent)\b\.?|\\text\s*\{\s*percent\s*\}", "%"),
    # Names of one symbol or set: the second is the one that math-verify's grammar reads.
    ("\\varnothing", r"\\varnothing(?![A-Za-z])", r"\\emptyset "),
    ("\\{", r"\\\{\s*\\\}", r"\\emptyset "),
    ("mpty", rf"(?:{_TEXT}\s*)?(?:\b[Tt]he\s+)?\b[Ee]mpty set\b\s*\}}?", r"\\emptyset "),
    ("\\", r"\\(?:math(?:bf|ds|bb)|Bbb)\s*(?:\{\s*([CNQRZ])\s*\}|([CNQRZ])(?![A-Za-z]))", r"\\mathbb{\1\2}"),
    ("\\", r"\\([NQRZ])(?![A-Za-z])|\\(R)eals(?![A-Za-z])", r"\\mathbb{\1\2}"),
    ("real", rf"(?:{_TEXT}\s*)?\b[Aa]ll real numbers\b\s*\}}?", r"\\mathbb{R}"),
    ("nfinity", rf"(?:{_TEXT}\s*)?\b[Ii]nfinity\b\s*\}}?", r"\\infty "),
    ("\\infty", r"\(\s*-\s*\\infty\s*[,;]\s*\+?\s*\\infty\s*\)", r"\\mathbb{R}"),
    ("\\var", r"\\var(epsilon|phi|theta|rho|sigma|pi|kappa)(?![A-Za-z])", r"\\\1"),
    ("\\", r"\\(?:backslash|smallsetminus)(?![A-Za-z])", r"\\setminus"),
    ("\\imath", r"\\imath(?![A-Za-z])", "i"),
    ("rm", r"\\mathrm\s*\{\s*([ei])\s*\}", r"\1"),
    ("\\", r"\\(?:operatorname|mathrm|text)\s*\{\s*((?:arc)?(?:sin|cos|tan|cot)|sec|csc|log|ln|exp)\s*\}", r"\\\1 "),
    ("\\lg", r"\\lg(?![A-Za-z])", r"\\log_{10} "),
    ("pi", r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
    ("tg", r"\\(c?)tg(?![A-Za-z])", lambda match: r"\cot" if match[1] else r"\tan"),
]  # fmt: skip
_PATTERNS = [(needle, re.compile(pattern), replacement) for needle, pattern, replacement in _SPELLINGS]
# A command whose backslash was escaped twice; in a matrix, two of them begin a row.
_TWICE = re.compile(r"\\\\(?=[A-Za-z{}%$])")
_ENVIRONMENT = re.compile(r"(?<!\\)\\begin(?![A-Za-z])")
_AND = re.compile(r"\\(?:text[a-z]*|mbox)\s*\{\s*(?:,?\s*and|,?\s*or)\s*\}|\b(?:and|or)\b|\\(?:lor|vee)(?![A-Za-z])")
_OPTION = re.compile(r"^(?:\\(?:text|math)[a-z]*\s*\{\s*)?\(?\b[A-J]\)(?:\s*\})?\s*(?=\S)")
_POWER = r"(?:\s*\^\s*(?:\{\s*-?[0-9]\s*\}|-?[0-9]))?"
_WRAPPED_UNIT = re.compile(
    rf"(?<=[0-9a-zA-Z}}).%])(?:\s*(?:/|\\cdot\s*)?\\(?:text[a-z]*|mbox|mathrm)\s*\{{[^{{}}]*\}}{_POWER})+\s*$"
)
_IN_DEGREES = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)(?:\s*[CF]\b)?\s*$")
# Units of two letters and more. A single letter after a number may be a variable: 5m is not 5.
_UNIT = re.compile(
    r"(?:(?<=[0-9})])|(?<=\\pi))\s*(?:sq(?:uare)?\.?\s+|cubic\s+)?"
    r"(?:[cmk]m(?:/h|/s)?|[mk]g|m[ls]|ft|lbs?|mph|m/s|units?|inch(?:es)?|feet|foot|yards?|miles?|(?:kilo|centi|milli)?met(?:er|re)s?|(?:kilo)?grams?|lit(?:er|re)s?|pounds?|ounces?"
    r"|degrees?|radians?|seconds?|minutes?|hours?|days?|weeks?|months?|years?|dollars?|cents?|euros?|yuan|usd"
    r"|(?<=\s)(?-i:[kMG]?Hz|mol|k?Pa|k?cal|k[JWV]h?|[kM]?eV))(?:\s+(?:squared|cubed))?"
    rf"{_POWER}\s*\.?\s*$",
    re.IGNORECASE,
)
# A plain number and then words, as in "15 red apples": what is counted is not part of the answer.
_COUNTED = re.compile(
    r"^([-+]?[$€£]?[0-9][0-9,.]*(?:/[0-9]+|\s*\\times\s*(?:10\^\{[0-9]+\}|12))?|-?[0-9]*\\frac\{[0-9]+\}\{[0-9]+\})"
    r"((?:\s+[A-Za-z][a-z]+){1,6})\.?$"
)
_MATHS_WORD = re.compile(r"\b(?:pi|sqrt|sin|cos|tan|log|ln|exp|mod|choose|times|over|base|or|and|to)\b", re.IGNORECASE)
_LEADING = re.compile(
    r"^(?:(?:approximately|approx\.?|about|roughly|around|exactly|simply|equals?(?: to)?|is|be)\s+|[=:]\s*"
    r"|\\approx(?![A-Za-z])\s*)+",
    re.IGNORECASE,
)
# A remark that is part of the answer: 1 (if n is odd); and one that never is.
_CONDITION = re.compile(r"(?:if|when|for|unless|where)\b", re.IGNORECASE)
_REASON = re.compile(r"(?:i\.e|e\.g)\b")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


@lru_cache(maxsize=4096)  # the completions of one problem repeat a few answers
def clean(text: str) -> str:
    """The answer in one spelling: no dollar signs, spacing commands, units, reasons, option letters or final full stop.

    Words that belong to a number's value become formulas: `2 million`, `three quarters`, `9 p.m.`
    """
    if _PLAIN.fullmatch(text):
        return " ".join(text.split())
    text = " ".join(as_latex(text).split())
    if r"\\" in text and not _ENVIRONMENT.search(text):
        text = _TWICE.sub(r"\\", text)
    for needle, pattern, replacement in _PATTERNS:
        if needle in text:
            text = pattern.sub(replacement, text)
    text = _tidy(text)
    text = without_reason(_LEADING.sub("", text))
    if whole := WRAPPER.fullmatch(text):
        text = whole[1].strip()
    text = _AND.sub(",", _without_units(text))
    return _OPTION.sub("", text)


def without_reason(text: str) -> str:
    """An answer without the remark in brackets after it, as in `5 (since 2 + 3 = 5)`; the bracket may be cut off."""
    start, depth = len(text), 0
    if text.endswith(")"):
        for place in range(len(text) - 1, -1, -1):
            depth += (text[place] == ")") - (text[place] == "(")
            if depth == 0:
                start = place
                break
    elif text.count("(") > text.count(")"):
        start = text.rfind("(")
    before, remark = text[:start].rstrip(), text[start:].strip("( )")
    if not before or before == text[:start] or not (_WORD.search(remark) or _REASON.match(remark)):
        return text
    first = remark.split()[0]
    return text if _CONDITION.match(first) or _MATHS_WORD.match(first) or has_value(first) else before


def _tidy(text: str) -> str:
    text = text.strip().rstrip("\\").strip()
    return text.removesuffix(".").strip().strip("*").strip()


def _without_units(text: str) -> str:
    """No unit and nothing that is counted after a number; words that belong to its value become formulas."""
    if (wrapped := _WRAPPED_UNIT.search(text)) and has_value(wrapped[0]):
        text = text[: wrapped.start()] + " " + " ".join(WRAPPER.sub(r"\1", wrapped[0]).split())
        wrapped = None
    text = as_formula(text)
    if wrapped:
        text = text[: wrapped.start()].strip()
    if "circ" in text and _TRIGONOMETRY.search(text):
        return _IN_DEGREES.sub(r"(\1 \\cdot \\frac{\\pi}{180})", text)
    for unit in (_DEGREES, _UNIT):
        if shorter := unit.sub("", text).strip():
            text = shorter
    counted = _COUNTED.match(text)
    if counted and not _MATHS_WORD.search(counted[2]) and not has_value(counted[2]):
        text = counted[1].rstrip(",.")
    return text
