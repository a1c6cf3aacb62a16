"""The options of multiple-choice questions: which letters a text settles on. Standard library only."""

from __future__ import annotations

import re

from nested_reft.grading.locate import SENTENCES, after_thoughts, prepared, statement
from nested_reft.grading.marks import last_mark
from nested_reft.grading.spelling import WRAPPER

_LETTER = r"(?:\([A-J]\)|[A-J](?![A-Za-z'])\.?)"
# Several letters; or one, alone or before its text. A bare letter before algebra is a variable: A \cos(t), E = mc^2.
_OPTIONS = re.compile(
    rf"\(?{_LETTER}\)?(?:(?:\s*(?:,?\s*(?:and|or)\b|[,;&/])\s*){_LETTER})+(?!\s*[\\=+^_{{}}*<>\d])|\([A-J]\)"
    r"|[A-J](?=[.):,：。]|\s+[A-Za-z]{2,}|\s*$|[^\x00-\x7f])(?!.*[\\=+^_{}/*<>])"
)
_ADJACENT = re.compile(r"[A-J](?: ?[A-J])+")
# "A" and "I" before a lower-case word are the article and the pronoun.
_LONE = re.compile(r"(?<![A-Za-z\\])(?:[B-HJ]|[AI](?!\s+(?!and\b|or\b)[a-z]))(?![A-Za-z'])")


def options(text: str) -> frozenset[str]:
    """The letters of a text that is one option or several, else none: `C`, `(C)`, `C. Paris`, `(C) 12`, `B and E`."""
    found = _OPTIONS.match(_plain(text))
    return frozenset(re.findall(r"[A-J]", found[0]) if found else ())


def chosen(response: str, several: bool) -> tuple[str, frozenset[str]]:
    """The rule that found what a response settles on, and its letters, none if there are none.

    With `several`, `BE` is two letters too.
    """
    text = after_thoughts(response)
    mark = last_mark(text)
    if mark:
        start, rule, content = mark
        adjacent = _ADJACENT.fullmatch(_plain(content)) if several else None
        if letters := frozenset(re.findall("[A-J]", adjacent[0])) if adjacent else options(content):
            return rule, letters
        if rule in SENTENCES:
            return rule, chosen(content, several)[1]
        text = text[start:]
    text = _plain(prepared(text))
    if stated := statement(text, words=True):
        lone = _LONE.search(stated.sentence)
        return stated.rule, options(stated.sentence[lone.start() :]) or frozenset(lone[0]) if lone else frozenset()
    return "a letter", frozenset() if mark else options(text) or frozenset(_LONE.findall(text)[:1])


def _plain(text: str) -> str:
    return WRAPPER.sub(r"\1", re.sub(r"\\[ ,;()]|\*\*|\$", " ", text)).strip()
