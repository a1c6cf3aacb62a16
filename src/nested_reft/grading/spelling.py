r"""Brings an answer to one spelling, and reads the quantity that it states. Standard library only."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from nested_reft.grading.exact import NUMBER, NUMBER_TEXT, Number, calculation, in_digits, number

# Unicode mathematics as LaTeX: 2√3 is 2\sqrt{3}, x² is x^{2}.
_SYMBOLS = {
    "−": "-", "–": "-", "‐": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": r"\cdot ", "÷": "/", "∕": "/",
    "⁄": "/", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "∣": "|",
    "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ", "∈": r"\in ", "±": r"\pm ", "°": r"^\circ ",
    "º": r"^\circ ", "∅": r"\emptyset ", "⟨": "(", "⟩": ")", "→": "->", "′": "'", "’": "'", "“": '"', "”": '"',
    "、": ",", "。": ". ", "∠": r"\angle ", "△": r"\triangle ", "ϕ": r"\phi ", "ϵ": r"\epsilon ", "√": r"\sqrt",
    "∛": r"\sqrt[3]", "\u0305": "", "\u0307": "",
}  # fmt: skip
_SYMBOLS |= {letter: rf"\mathbb{{{unicodedata.normalize('NFKC', letter)}}}" for letter in "ℂℕℚℝℤ"}
for _letter in map(chr, (*range(0x391, 0x3AA), *range(0x3B1, 0x3CA))):  # Greek
    _name = unicodedata.name(_letter, "").rpartition(" ")[2].lower().replace("lamda", "lambda")
    _SYMBOLS[_letter] = rf"\{_name.capitalize() if _letter.isupper() else _name} "
_TABLE = str.maketrans(_SYMBOLS)
# Raised and lowered digits, vulgar fractions, repeating digits; roots of the number, letter or bracket after them.
_COMPOSED = [
    (re.compile("[²³¹⁰ⁱ⁴-⁹⁺-ⁿ]+"), r"^{\g<0>}"),
    (re.compile("[₀-₎ₐ-ₜ]+"), r"_{\g<0>}"),
    (re.compile("[½⅓⅔¼¾⅐-⅞]"), r" \g<0>"),
    (re.compile("(?:[0-9][\u0305\u0307])+"), r"\\overline{\g<0>}"),
    (re.compile(r"([√∛])\s*(?:([0-9]+(?:\.[0-9]+)?|[A-Za-zπ])|\(([^()]*)\))"), r"\1{\2\3}"),
]


def as_latex(text: str) -> str:
    """The text with Unicode mathematics as LaTeX, in ASCII if it has a form there, and no signs of currencies."""
    if text.isascii():
        return text
    for pattern, replacement in _COMPOSED:
        text = pattern.sub(replacement, text)
    # A second time, for what normalization makes of raised signs and vulgar fractions.
    text = unicodedata.normalize("NFKC", text.translate(_TABLE)).translate(_TABLE)
    return "".join(c for c in text if c.isascii() or unicodedata.category(c) not in ("Cf", "Sc"))


WRAPPER = re.compile(r"\\(?:text[a-z]*|mbox|math(?:rm|bf|it|sf|cal)|operatorname|underline)\s*\{([^{}]*)\}")
# Marks of a text's end, and HTML.
TOKENS = re.compile(r"<\|[^<>|]{1,40}\|>|</?(?:s|eos|end_of_turn|b|i|u|em|strong|p|br|div|span|code)\b[^<>]{0,40}>")
# Several names of one symbol: the second is the one that math-verify's grammar reads.
_NAMES = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "varnothing": r"\emptyset ", "colon": ":",
    "varepsilon": r"\epsilon", "varphi": r"\phi", "vartheta": r"\theta", "lg": r"\log_{10} ", "degree": r"^\circ ",
    "dots": "...", "ldots": "...", "cdots": "...", "langle": "(", "rangle": ")", "lbrace": r"\{", "rbrace": r"\}",
}  # fmt: skip
_REWRITTEN = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (TOKENS.pattern, ""),
        (r"\b[A-Z]{1,2}\\?\$(?=\s*[0-9])|\\?\$|(?<!\\)\\[\[\]()]|\\(?:left|right|[bB]igg?[lrm]?|displaystyle)\b", ""),
        (r"\\(?:text)?color\s*\{[^{}]*\}|\s*\\!\s*|\\?[\"“”]|\\\\\s*(?=\\end)", ""),
        (r"(?<!\\)\\(?:[,;:> ]|q?quad(?![A-Za-z]))|~", " "),
        (r"\\(?:SI|qty|num|ang)\s*\{([^{}]*)\}(?:\s*\{[^{}]*\})?", r"\1"),
        (r"\\frac\s*(\\pi|[0-9A-Za-z])\s*(\\pi|[0-9A-Za-z])", r"\\frac{\1}{\2}"),
        (r"\{\s*,\s*\}", ","),
        (r"(?<=[0-9A-Za-z)}])\*\*(?=[0-9A-Za-z({-])", "^"),
        (r"!=", r"\\ne "),
        (r"\\%|\s*\b(?:percentage|percent|pct|per cent)\b\.?|\\text\s*\{\s*percent\s*\}", "%"),
        (r"(?<=[0-9])\s*(?:x|\btimes\b)\s*(?=[0-9])", r"\\times "),
        (r"\^\s*\{\s*\^?\\circ\s*\}|\^\^\\circ", r"^\\circ"),
        (r"\\\{\s*\\\}|(?:\\text\s*\{\s*)?(?:\b[Tt]he\s+)?\b[Ee]mpty set\b\s*\}?", r"\\emptyset "),
        (r"(?:\\text\s*\{\s*)?\b[Aa]ll real numbers\b\s*\}?", r"\\mathbb{R}"),
        (r"\\(?:math(?:bf|ds|bb)|Bbb)\s*(?:\{\s*([CNQRZ])\s*\}|([CNQRZ])(?![A-Za-z]))", r"\\mathbb{\1\2}"),
        (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
    ]
]
_OPTION = re.compile(r"^(?:\\(?:text|math)[a-z]*\s*\{\s*)?\(?\b[A-J]\)(?:\s*\})?\s*(?=\S)")
_POWER = r"(?:\s*\^\s*(?:\{\s*-?[0-9]\s*\}|-?[0-9](?![0-9])))?"
# Units of two letters and more, which may follow a number directly. A single letter there is a variable.
_UNITS = (
    r"(?:(?:sq(?:uare)?\.?\s+|cubic\s+)?(?:km\s*/\s*h|m\s*/\s*s|[cmkdn]m|[mk]gs?|m[ls]|[kMG]?Hz|k?Pa|k?cal|[kM]?eV|[kM]Wh?"
    r"|mol|ft|yd|lbs?|oz|gal|mph|mins?|secs?|hrs?|yrs?|pts?|in|units?|inch(?:es)?|feet|foot|yards?|miles?|pounds?|ounces?"
    r"|(?:kilo|centi|milli)?(?:met(?:er|re)|gram|lit(?:er|re))s?|degrees?|radians?|(?:second|minute|hour|day|week|month"
    r"|year|dollar|cent|euro|rupee)s?|yuan|USD|EUR|GBP|INR)(?:\s+(?:squared|cubed))?\b)"
)
UNIT = re.compile(
    rf"(?<=[0-9}})])\s*/?\s*{_UNITS}\.?{_POWER}|\b(?:Rs|USD|EUR|GBP|INR)\b\.?(?=\s*[0-9])"
    r"|\s*\^\s*\\circ(?![A-Za-z])(?:\s*[CF]\b)?"
)
# A unit of one letter after a space, m/s^2; an ordinal's ending; a number given twice, "12 (12)"; a unit of a formula.
_LETTER_UNIT = re.compile(rf"(?<=[0-9])\s+[mghsLNJWVAK](?:\s*/\s*[a-z]+)?{_POWER}\s*\Z")
_ORDINAL = re.compile(r"(?<=[0-9}])\s*(?:\^\s*\{?\s*)?(?:\b|(?<=[0-9]))(?:st|nd|rds?|ths?)\b\s*\}?")
_TWICE = re.compile(r"\b([0-9]+)\s*\(\s*\1\s*\)")
_WRAPPED_UNIT = re.compile(
    rf"(?<=[0-9a-zA-Z}}).%])(?:\s*(?:/|\\cdot\s*)?\\(?:text[a-z]*|mbox|mathrm)\s*\{{[^{{}}]*\}}{_POWER})+\s*\Z"
)
# Words that change the value of the number beside them, and words of mathematics.
_MEANING = re.compile(
    r"(?i)\.\.|\b(?:[ap]\.?\s?m|squared|cubed|factorial|infinity|if|when|unless|not"
    r"|base|mod|modulo|choose|over|root|sqrt|power|sin|cos|tan|log|ln|exp)\b"
)
# A number by itself among whole words, in any script, and what may stand between them.
_WORDS = (
    r"(?:[\s.,:;!?'\"]|(?<=\w)-(?=\w)|(?<![a-z])/(?=\s*[a-z]{3})|(?<=[a-z])/\s*[a-z]++"
    r"|[^\W\d_]{2,}+|[^\W\d_\x00-\x7f]|(?<!\S)[aI](?!\S))*"
)
_ALONE = re.compile(rf"{_WORDS}(?<![A-Za-z\\])([-+]?\s*{NUMBER_TEXT})(?![A-Za-z!]){_WORDS}")
# An answer and what stands in brackets after it, which may break off.
_REMARK = re.compile(r"(.*?[^\s\\])\s*\((?:([^()]+(?:\([^()]*\)[^()]*)*)\)|([^()]+))", re.DOTALL)


@lru_cache(maxsize=4096)  # the completions of one problem repeat a few answers
def clean(text: str) -> str:
    """The answer in one spelling: no dollar signs, spacing commands, remarks, option letters or final full stop."""
    if not re.fullmatch(r"[-0-9.,()\[\] ]*", text):  # in numbers, and lists of them, there is nothing to change
        text = re.sub(r"\\([A-Za-z]+)", lambda match: _NAMES.get(match[1], match[0]), as_latex(text))
        for pattern, replacement in _REWRITTEN:
            text = pattern.sub(replacement, text)
    text = without_remark(_tidy(" ".join(text.split())))
    if whole := WRAPPER.fullmatch(text):
        text = _tidy(whole[1])
    return _OPTION.sub("", text)


def _tidy(text: str) -> str:
    text = text.strip(" *`_;,?>").rstrip("\\").lstrip("=: ").removeprefix(r"\approx ")
    return (text if text.endswith("..") else text.removesuffix(".")).strip(" *`")


def without_remark(text: str) -> str:
    """An answer without the remark in brackets after it, `5 (since 2 + 3 = 5)`, `5 (2 + 3)` or `5 (five)`."""
    match = _REMARK.fullmatch(text) if "(" in text else None
    if not match or _MEANING.match(remark := (match[2] or match[3]).strip()):
        return text
    if re.search(r"(?<![\\A-Za-z])[A-Za-z]{2,}|i\.e", in_digits(remark)):
        return match[1]
    value, same = quantity(match[1]), quantity(remark.rpartition("=")[2].strip())
    return match[1] if value is not None and same is not None and value.value == same.value else text


@lru_cache(maxsize=4096)
def quantity(text: str) -> Number | None:
    """The number that a cleaned answer states: by itself, with units, or as the only one among words; else None."""
    if found := number(text) or calculation(text):
        return found
    if len(text) > 300 or not re.search(r"[0-9a-z]", text):
        return None
    words = "" if _MEANING.search(text) else _LETTER_UNIT.sub("", _in_words(text))
    alone = _ALONE.fullmatch(words)
    return number(words) or calculation(words) or (number(alone[1]) if alone else None)


def _in_words(text: str) -> str:
    """The answer without units after its numbers and LaTeX around its words, and with digits for words."""
    text = without_remark(WRAPPER.sub(r" \1 ", text).strip())
    text = _TWICE.sub(r"\1", in_digits(text.strip()))
    return UNIT.sub("", _ORDINAL.sub("", text)).strip(" .")


def contrary(a: str, b: str) -> bool:
    """Whether each cleaned answer has a word beside its number that the other has not: `5 km north`, `5 km south`."""
    said = [re.findall(r"[^\W\d_]+", NUMBER.sub(" ", _in_words(text)).casefold()) for text in (a, b)]
    first, second = ({word.rstrip("s") for word in words} for words in said)
    return bool(first - second and second - first)


def without_unit(text: str) -> str:
    r"""A cleaned formula without the unit after it, `2\pi \text{ cm}`."""
    text = _WRAPPED_UNIT.sub(lambda unit: unit[0] if _MEANING.search(unit[0]) else "", text)
    return text.replace(r"^\circ", "").strip()
