r"""Brings an answer to one spelling, and reads the quantity that it states. Standard library only."""

from __future__ import annotations

import re
from functools import lru_cache

from nested_reft.grading.exact import NUMBER, Number, calculation, in_digits, number
from nested_reft.grading.unicode import as_latex

# Numbers, tuples and lists of them, in which there is nothing to change.
_PLAIN = re.compile(r"[-0-9,()\[\] ]*(?:\.[0-9][-0-9,()\[\] ]*)*")
WRAPPER = re.compile(r"\\(?:text[a-z]*|mbox|math(?:rm|bf|it|sf|cal)|operatorname|underline)\s*\{([^{}]*)\}")
# What is no part of an answer: tokens that end a text, HTML, dollar signs, delimiters, sizes, colours, quotation marks.
_DROPPED = re.compile(
    r"<\|[^<>|]{1,40}\|>|</?(?:s|eos|b|i|u|em|strong|p|br|div|h[1-6]|center|span|code)\b[^<>]{0,40}>|\\?\$"
    r"|\b[A-Z]{1,2}\\?\$(?=\s*[0-9])|(?<!\\)\\[\[\]()]|\\(?:left|right|[bB]igg?[lrm]?|displaystyle)(?![A-Za-z])|\\(?:text)?color\s*\{[^{}]*\}"
    r"|\s*\\!\s*|\\?[\"“”]|\\\\\s*(?=\\end)"
)
_SPACE = re.compile(r"(?<!\\)\\(?:[,;:> ]|q?quad(?![A-Za-z]))|~")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
# Several names of one symbol: the second is the one that math-verify's grammar reads.
_NAMES = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "varnothing": r"\emptyset ", "colon": ":", "imath": "i",
    "leq": r"\le", "geq": r"\ge", "leqslant": r"\le", "geqslant": r"\ge", "neq": r"\ne", "lt": "<", "gt": ">",
    "varepsilon": r"\epsilon", "varphi": r"\phi", "vartheta": r"\theta", "lg": r"\log_{10} ", "tg": r"\tan",
    "ctg": r"\cot", "dots": "...", "ldots": "...", "cdots": "...", "degree": r"^\circ ", "langle": "(", "rangle": ")",
    "lbrace": r"\{", "rbrace": r"\}", "Reals": r"\mathbb{R}", "lor": ",", "vee": ",", "smallsetminus": r"\setminus",
}  # fmt: skip
_ARGUMENT = r"\s*(?:\{([^{}]*)\}|(\\pi|\w))"
# Each with a string that a text must have for it, which is faster to look for than the pattern.
_PATTERNS = [
    (needle, re.compile(pattern), replacement)
    for needle, pattern, replacement in [
        ("\\", r"\\(?:SI|qty|num|ang)\s*\{([^{}]*)\}(?:\s*\{[^{}]*\})?", r"\1"),
        ("frac", rf"\\frac{_ARGUMENT}{_ARGUMENT}", r"\\frac{\1\2}{\3\4}"),
        ("dot", r"\\dot\s*\{?([0-9])\}?(?:([0-9]*)\\dot\s*\{?([0-9])\}?)?", r"\\overline{\1\2\3}"),
        ("bar", r"\\bar\s*([0-9])", r"\\bar{\1}"),
        ("{", r"\{\s*,\s*\}", ","),
        ("*", r"(?<=[0-9A-Za-z)}])\*\*(?=[0-9A-Za-z({-])", "^"),
        ("=", r"!=", r"\\ne "),
        ("%", r"\\%", "%"),
        ("p", r"\s*\b(?:percentage|percent|pct|per cent)\b\.?|\\text\s*\{\s*percent\s*\}", "%"),
        (":", r"(?<=[0-9])\s*:\s*(?=[0-9])", ":"),
        ("", r"(?<=[0-9])\s*(?:x|\btimes\b)\s*(?=[0-9])", r"\\times "),
        ("circ", r"\^\s*\{\s*\^?\\circ\s*\}|\^\^\\circ", r"^\\circ"),
        ("\\{", r"\\\{\s*\\\}", r"\\emptyset "),
        ("mpty", r"(?:\\text\s*\{\s*)?(?:\b[Tt]he\s+)?\b[Ee]mpty set\b\s*\}?", r"\\emptyset "),
        ("real", r"(?:\\text\s*\{\s*)?\b[Aa]ll real numbers\b\s*\}?", r"\\mathbb{R}"),
        ("\\", r"\\(?:math(?:bf|ds|bb)|Bbb)\s*(?:\{\s*([CNQRZ])\s*\}|([CNQRZ])(?![A-Za-z]))", r"\\mathbb{\1\2}"),
        ("\\", r"\\(?:operatorname|mathrm|text)\s*\{\s*((?:arc)?(?:sin|cos|tan|cot)|log|ln|exp)\s*\}", r"\\\1 "),
        ("rm", r"\\mathrm\s*\{\s*([ei])\s*\}", r"\1"),
        ("pi", r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
    ]
]  # fmt: skip
_AND = re.compile(r"\\(?:text[a-z]*|mbox)\s*\{\s*(?:,?\s*and|,?\s*or)\s*\}|\b(?:and|or)\b")
_OPTION = re.compile(r"^(?:\\(?:text|math)[a-z]*\s*\{\s*)?\(?\b[A-J]\)(?:\s*\})?\s*(?=\S)")
_POWER = r"(?:\s*\^\s*(?:\{\s*-?[0-9]\s*\}|-?[0-9](?![0-9])))?"
# Units of two letters and more, which may follow a number directly. A single letter there is a variable.
_UNITS = (
    r"(?:(?:sq(?:uare)?\.?\s+|cubic\s+)?(?:km\s*/\s*h|m\s*/\s*s|[cmkdn]m|[mk]gs?|m[ls]|[kMG]?Hz|k?Pa|k?cal|[kM]?eV|dB"
    r"|[kM]Wh?|mol|ft|yd|lbs?|oz|gal|mph|mins?|secs?|hrs?|yrs?|pts?|in|units?|inch(?:es)?|feet|foot|yards?|miles?"
    r"|pounds?|ounces?|(?:kilo|centi|milli)?(?:met(?:er|re)|gram|lit(?:er|re))s?|degrees?|radians?|seconds?|minutes?|hours?|days?"
    r"|weeks?|months?|years?|dollars?|cents?|euros?|yuan|rupees?|USD|EUR|GBP|INR)(?:\s+(?:squared|cubed))?\b)"
)
_UNIT = re.compile(rf"(?<=[0-9}})])\s*{_UNITS}\.?{_POWER}|\b(?:Rs|USD|EUR|GBP|INR)\b\.?(?=\s*[0-9])")
_TWICE = re.compile(r"\b([0-9]+)\s*\(\s*\1\s*\)")  # twelve (12)
_CIRCLE = re.compile(r"\s*\^\s*\\circ(?![A-Za-z])(?:\s*[CF]\b)?")
_ORDINAL = re.compile(r"(?<=[0-9}])(?:\s*\^\s*\{?\s*)?\b(?:st|nd|rds?|ths?)\b\s*\}?|(?<=[0-9])(?:st|nd|rds?|ths?)\b")
_RATE = re.compile(rf"\s*/\s*(?:(?<=[0-9]/)|(?<=[0-9]/\s))(?:{_UNITS}|[a-z]{{4,}}\b)|(?<=[a-z])\s*/\s*[a-z]+\b")
# Letters in \text or \mathrm are a unit; without, a space before one is enough if the other answer is a number: 5 m.
_IN_TEXT = rf"\\(?:text[a-z]*|mbox|mathrm)\s*\{{[^{{}}]*\}}{_POWER}"
_LETTER_UNIT = re.compile(
    rf"(?<=[0-9])(?:\s*\\frac\{{\s*{_IN_TEXT}\s*\}}\{{\s*{_IN_TEXT}\s*\}}"
    rf"|(?:\s*(?:/|\\cdot)?\s*\\(?:text|mbox|mathrm)\s*\{{\s*[A-Za-z]\s*\}}{_POWER})+)"
)
_WRAPPED_UNIT = re.compile(rf"(?<=[0-9a-zA-Z}}).%])(?:\s*(?:/|\\cdot\s*)?{_IN_TEXT})+\s*$")
_SPACED_LETTER = re.compile(r"(?<=[0-9])\s+[mghsLNJWVAK]\Z")
_SINES = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_IN_DEGREES = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*\^\s*\\circ(?![A-Za-z])")
# Words that change the value of the number beside them, and words of mathematics.
_MEANING = re.compile(
    r"\.\.|\b(?:[ap]\.?\s?m|noon|midnight|morning|afternoon|evening|squared|cubed|factorial|infinity|if|when|unless|not"
    r"|base|mod|modulo|choose|over|root|sqrt|power|sin|cos|tan|log|ln|exp)\b",
    re.IGNORECASE,
)
# Whole words, in any script, and what may stand between them.
_WORDS = re.compile(r"(?:[\s.,:;!?'\"]|(?<=\w)-(?=\w)|[^\W\d_]{2,}|[^\W\d_\x00-\x7f]|(?<!\S)[aI](?!\S))*")


@lru_cache(maxsize=4096)  # the completions of one problem repeat a few answers
def clean(text: str) -> str:
    """The answer in one spelling: no dollar signs, spacing commands, remarks, option letters or final full stop."""
    if _PLAIN.fullmatch(text):
        return " ".join(text.split())
    text = _SPACE.sub(" ", _DROPPED.sub("", as_latex(text)))
    text = " ".join(_COMMAND.sub(lambda match: _NAMES.get(match[1], match[0]), text).split())
    for needle, pattern, replacement in _PATTERNS:
        if needle in text:
            text = pattern.sub(replacement, text)
    text = without_remark(_tidy(text))
    if whole := WRAPPER.fullmatch(text):
        text = _tidy(whole[1])
    return _OPTION.sub("", text)


def _tidy(text: str) -> str:
    text = text.strip(" *`_;,?>").rstrip("\\").lstrip("=: ").removeprefix(r"\approx ")
    return (text if text.endswith("..") else text.removesuffix(".")).strip(" *`")


def without_remark(text: str) -> str:
    """An answer without the remark in brackets after it, `5 (since 2 + 3 = 5)`, `5 (2 + 3)` or `5 (five)`."""
    start = _bracket_at_end(text)
    before, remark = text[:start].rstrip(), text[start:].strip("( )")
    if not before or not remark or before == text[:start] or _MEANING.match(remark):
        return text
    if re.search(r"(?<![\\A-Za-z])[A-Za-z]{2,}|i\.e", in_digits(remark)):
        return before
    value, same = quantity(before), quantity(remark.rpartition("=")[2].strip())
    return before if value is not None and same is not None and value.value == same.value else text


def _bracket_at_end(text: str) -> int:
    """Where the last bracket opens, if the text ends with it or breaks off in it; else the text's end."""
    depth = 0
    for place in range(len(text) - 1, -1, -1) if text.endswith(")") else ():
        depth += (text[place] == ")") - (text[place] == "(")
        if depth == 0:
            return place
    return text.rfind("(") if text.count("(") > text.count(")") else len(text)


@lru_cache(maxsize=4096)
def quantity(text: str) -> Number | None:
    """The number that a cleaned answer states: by itself, with units, or as the only one among words; else None."""
    if found := number(text) or calculation(text):
        return found
    if len(text) > 300 or not re.search(r"[0-9a-z]", text):
        return None
    meaning, text = _MEANING.search(text), _in_words(text)
    if not meaning and (found := number(text) or calculation(text)):
        return found
    matches = list(NUMBER.finditer(text))
    if len(matches) != 1 or meaning:
        return None
    before, after = text[: matches[0].start()], text[matches[0].end() :]
    alone = not re.match(r"[A-Za-z!]", after) and not re.search(r"[A-Za-z\\]$", before)
    return number(matches[0][0]) if alone and _WORDS.fullmatch(before) and _WORDS.fullmatch(after) else None


def _in_words(text: str) -> str:
    """The answer without units after its numbers and LaTeX around its words, and with digits for words."""
    text = without_remark(WRAPPER.sub(r" \1 ", _LETTER_UNIT.sub("", text)).strip())
    text = _TWICE.sub(r"\1", in_digits(text.strip()))
    return _RATE.sub("", _SPACED_LETTER.sub("", without_units(_ORDINAL.sub("", text)))).strip(" .")


def without_units(text: str) -> str:
    """A cleaned answer or a sentence without the units after its numbers."""
    return _UNIT.sub("", _CIRCLE.sub("", text)) if re.search(r"[0-9}]\s*[A-Za-z^]|[A-Z]", text) else text


def qualifiers(text: str) -> set[str]:
    """What a cleaned answer says beside its number and units, in words without their plural's s."""
    return {word.rstrip("s") for word in re.findall(r"[^\W\d_]{2,}", NUMBER.sub(" ", _in_words(text)).casefold())}


def without_unit(text: str) -> str:
    r"""A cleaned formula without the unit after it, `2\pi \text{ cm}`; its degrees in radians if it has sines."""
    if "circ" in text and _SINES.search(text):
        return _IN_DEGREES.sub(r"(\1 \\cdot \\frac{\\pi}{180})", text)
    wrapped = _WRAPPED_UNIT.search(text)
    if wrapped and not _MEANING.search(wrapped[0]) and in_digits(wrapped[0]) == wrapped[0]:
        text = text[: wrapped.start()]
    return _CIRCLE.sub("", text).strip()


def as_list(text: str) -> str:
    """A cleaned answer with commas for `and` and `or`."""
    return _AND.sub(",", WRAPPER.sub(r" \1 ", text)) if _AND.search(text) else text
