r"""Unicode mathematics as LaTeX: `2√3` is `2\sqrt{3}`, `½` is `\frac{1}{2}`, `x²` is `x^{2}`. Standard library only."""

from __future__ import annotations

import re
import unicodedata

_SYMBOLS = {
    "−": "-", "–": "-", "‐": "-", "‑": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ",
    "∗": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ",
    "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ", "∈": r"\in ",
    "±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ", "∅": r"\emptyset ", "⟨": "(", "⟩": ")", "∣": "|", "∑": r"\sum ",
    "∏": r"\prod ", "∫": r"\int ", "→": "->", "′": "'", "’": "'", "“": '"', "”": '"', "…": "...", "、": ",",
    "。": ". ", "∠": r"\angle ", "△": r"\triangle ", "ϕ": r"\phi ", "ϵ": r"\epsilon ", "\u0305": "", "\u0307": "",
}  # fmt: skip
_SYMBOLS |= {letter: rf"\mathbb{{{unicodedata.normalize('NFKC', letter)}}}" for letter in "ℂℕℚℝℤ"}
for _code in (*range(0x391, 0x3AA), *range(0x3B1, 0x3CA)):  # Greek letters
    _name = unicodedata.name(chr(_code), "").rpartition(" ")[2].lower().replace("lamda", "lambda")
    _SYMBOLS[chr(_code)] = rf"\{_name.capitalize() if _code < 0x3AA else _name} "
_TABLE = str.maketrans(_SYMBOLS)
_RAISED, _LOWERED = (
    "".join(c for c in map(chr, (0xB2, 0xB3, 0xB9, *range(0x2070, 0x209D))) if kind in unicodedata.decomposition(c))
    for kind in ("<super>", "<sub>")
)
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
# Raised and lowered digits and letters, vulgar fractions, repeating digits with a line or dots over them, and roots,
# which reach over the number, letter or bracket after them.
_PATTERNS = [
    (re.compile(f"[{_RAISED}]+"), lambda match: f"^{{{_plain(match[0])}}}"),
    (re.compile(f"[{_LOWERED}]+"), lambda match: f"_{{{_plain(match[0])}}}"),
    (re.compile("[½⅓⅔¼¾⅐-⅞]"), lambda match: r"\frac{{{}}}{{{}}}".format(*_plain(match[0]).split("⁄"))),
    (re.compile("(?:[0-9]\u0305)+|(?:[0-9]\u0307)(?:[0-9]*[0-9]\u0307)?"), lambda match: rf"\overline{{{match[0]}}}"),
    (
        re.compile(r"([√∛∜])\s*(?:([0-9]+(?:\.[0-9]+)?|[A-Za-zπ])|\(([^()]*)\)|(?=\{))"),
        lambda match: _ROOTS[match[1]] + (f"{{{match[2] or match[3]}}}" if match[2] or match[3] else ""),
    ),
]


def as_latex(text: str) -> str:
    """The text with Unicode mathematics as LaTeX, in ASCII if it has a form there, and no signs of currencies."""
    if text.isascii():
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return "".join(map(_as_ascii, text.translate(_TABLE)))


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("−", "-")


def _as_ascii(character: str) -> str:
    if character.isascii():
        return character
    if character.isspace() or unicodedata.category(character) in ("Cf", "Sc"):
        return " " if character.isspace() else ""
    return unicodedata.normalize("NFKC", character) if "\uff00" <= character <= "\uffef" else character
