r"""Unicode mathematics as LaTeX: `2√3` is `2\sqrt{3}`, `½` is `\frac{1}{2}`, `x²` is `x^{2}`. Standard library only."""

from __future__ import annotations

import re
import unicodedata

_SYMBOLS = {
    "−": "-", "–": "-", "‐": "-", "‑": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ",
    "∗": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ",
    "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ",
    "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ", "∅": r"\emptyset ", "⟨": "(", "⟩": ")", "∣": "|",
    "ℝ": r"\mathbb{R}", "ℕ": r"\mathbb{N}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}",
    "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "→": r"\to ", "′": "'", "’": "'", "…": "...", "、": ",", "。": ".",
    "∠": r"\angle ", "△": r"\triangle ", "∧": r"\wedge ", "∨": r"\vee ", "⌊": r"\lfloor ", "⌋": r"\rfloor ",
    "⌈": r"\lceil ", "⌉": r"\rceil ", "\t": " ", "\n": " ",
}  # fmt: skip
_GREEK = [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "omicron", "pi", "rho", "varsigma", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
]  # fmt: skip
_SYMBOLS |= {chr(0x3B1 + place): rf"\{name} " for place, name in enumerate(_GREEK)}
_SYMBOLS |= {letter: rf"\{unicodedata.name(letter).split()[-1].capitalize()} " for letter in "ΓΔΘΛΞΠΣΦΨΩ"}
_SYMBOLS |= {"Λ": r"\Lambda ", "ϕ": r"\phi ", "ϵ": r"\epsilon "}  # Unicode's name of Λ is lamda
_TABLE = str.maketrans(_SYMBOLS)

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱˣ", "0123456789+-()nix", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙₐₓ", "0123456789+-()nax", strict=True))
_SUPERSCRIPT, _SUBSCRIPT = (re.compile(f"[{''.join(table)}]+") for table in (_SUPERSCRIPTS, _SUBSCRIPTS))
_VULGAR = re.compile("[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒]")
_OVERLINE = re.compile("((?:[0-9]\u0305)+)")
_DOTTED = re.compile("([0-9])\u0307")
# A root reaches over the number, letter or bracket after it.
_ROOT = re.compile(r"([√∛∜])\s*(?:([0-9]+(?:\.[0-9]+)?|[A-Za-z]|\\[A-Za-z]+ )|\(([^()]*)\)|(\{))?")
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}


def as_latex(text: str) -> str:
    """The text with Unicode mathematics as LaTeX, full-width characters as ASCII, and odd spaces as spaces."""
    if text.isascii():
        return text.replace("\t", " ").replace("\n", " ")
    text = _OVERLINE.sub(lambda match: rf"\overline{{{match[1].replace(chr(0x305), '')}}}", text)
    text = _DOTTED.sub(r"\\dot{\1}", text)
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{_plain(match[0], _SUPERSCRIPTS)}}}", text)
    text = _SUBSCRIPT.sub(lambda match: f"_{{{_plain(match[0], _SUBSCRIPTS)}}}", text)
    text = _VULGAR.sub(lambda match: _fraction(match[0]), text).translate(_TABLE)
    text = _ROOT.sub(_root, text)
    return "".join(map(_as_ascii, text))


def _plain(characters: str, table: dict[str, str]) -> str:
    return "".join(table[character] for character in characters)


def _fraction(character: str) -> str:
    top, bottom = unicodedata.normalize("NFKC", character).split("\u2044")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _root(match: re.Match[str]) -> str:
    symbol, plain, inside, brace = match.groups()
    if brace:
        return _ROOTS[symbol] + "{"
    return f"{_ROOTS[symbol]}{{{plain or inside}}}" if plain or inside else _ROOTS[symbol]


def _as_ascii(character: str) -> str:
    """Full-width forms and spaces in ASCII; any other character as it is."""
    if character.isascii():
        return character
    if character.isspace() or unicodedata.category(character) == "Cf":
        return " " if character.isspace() else ""
    return unicodedata.normalize("NFKC", character) if "\uff00" <= character <= "\uffef" else character
