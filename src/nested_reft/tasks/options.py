"""The options of multiple-choice questions: which letters a text settles on. Standard library only."""

from __future__ import annotations

import re

from nested_reft.tasks.extraction import TAIL_CHARS, after_thoughts, keywords, marked

_WRAPPER = re.compile(r"\\(?:boxed|text[a-z]*|mbox|math(?:rm|bf|it|sf))\s*\{([^{}]*)\}")
_JOINED = r"(?:\s*(?:,?\s*(?:and|or)\b|[,;&/])\s*)"
_LETTER = r"(?:\(([A-J])\)|([A-J])(?![A-Za-z'])\.?)"
_SEVERAL = re.compile(rf"{_LETTER}(?:{_JOINED}{_LETTER})+")
_ADJACENT = re.compile(r"[A-J](?: ?[A-J])+")
# "A" before a lower-case word is the article.
_LONE = re.compile(r"(?<![A-Za-z\\])([B-J]|A(?!\s+(?!and\b|or\b)[a-z]))(?![A-Za-z'])")


def options(text: str) -> frozenset[str]:
    """The letters of a text that is one option or several, else none: `C`, `(C)`, `C. Paris`, `(C) 12`, `B and E`."""
    plain = _plain(text)
    if letters := _several(plain):
        return letters
    if match := re.match(r"\(([A-J])\)", plain):
        return frozenset(match[1])
    # A bare letter before algebra is a variable: A \\cos(t), E = mc^2.
    match = re.match(r"([A-J])(?=[.):,：。]|\s+[A-Za-z]{2,}|\s*$|[^\x00-\x7f])", plain)
    return frozenset(match[1] if match and not re.search(r"[\\=+^_{}/*<>]", plain) else "")


def chosen(response: str, several: bool = False) -> frozenset[str]:
    """The option letters that a response settles on; with `several`, `BE` is two letters too."""
    text = after_thoughts(response[-TAIL_CHARS:])
    if mark := marked(text):
        if mark.content and mark.prose:
            return chosen(mark.content, several)
        plain = _plain(mark.content or "")
        return frozenset(plain) - {" "} if several and _ADJACENT.fullmatch(plain) else options(plain)
    for end in keywords(text)[:1]:
        match = _LONE.search(text, end)
        if match is None:
            return frozenset()
        opening = match.start() - (text[match.start() - 1] == "(")
        return _several(_plain(text[opening : match.end() + 100])) or frozenset(match[1])
    if letters := options(text):
        return letters
    found_letters = re.findall(r"\(([A-J])\)", text)[-1:] or _LONE.findall(text)[:1]
    return frozenset(found_letters)


def _plain(text: str) -> str:
    return _WRAPPER.sub(r"\1", re.sub(r"\\[ ,;]|\*\*|\$", " ", text)).strip()


def _several(plain: str) -> frozenset[str]:
    """The letters that a text starts with, if they are joined and nothing but a remark follows."""
    match = _SEVERAL.match(plain)
    if not match or re.match(r"\s*[\\=+^_{}*<>\d]", plain[match.end() :]):
        return frozenset()
    return frozenset(re.findall(r"[A-J]", re.sub(r"\b(?:and|or)\b", "", match[0])))
