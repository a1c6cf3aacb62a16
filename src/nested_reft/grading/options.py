"""The options of multiple-choice questions: which letters a text settles on. Standard library only."""

from __future__ import annotations

import re

from nested_reft.grading.locate import KEYWORD, LAST_KEYWORDS, after_thoughts, first_sentence, prepared
from nested_reft.grading.marks import last_mark

_WRAPPER = re.compile(r"\\(?:boxed|text[a-z]*|mbox|math(?:rm|bf|it|sf))\s*\{([^{}]*)\}")
_LETTER = r"(?:\(([A-J])\)|([A-J])(?![A-Za-z'])\.?)"
_SEVERAL = re.compile(rf"{_LETTER}(?:(?:\s*(?:,?\s*(?:and|or)\b|[,;&/])\s*){_LETTER})+(?!\s*[\\=+^_{{}}*<>\d])")
_ADJACENT = re.compile(r"[A-J](?: ?[A-J])+")
# "A" and "I" before a lower-case word are the article and the pronoun.
_LONE = re.compile(r"(?<![A-Za-z\\])([B-HJ]|[AI](?!\s+(?!and\b|or\b)[a-z]))(?![A-Za-z'])")


def options(text: str) -> frozenset[str]:
    """The letters of a text that is one option or several, else none: `C`, `(C)`, `C. Paris`, `(C) 12`, `B and E`."""
    plain = _plain(text)
    if several := _SEVERAL.match(plain):
        return frozenset(re.findall(r"[A-J]", several[0]))
    if match := re.match(r"\(([A-J])\)", plain):
        return frozenset(match[1])
    # A bare letter before algebra is a variable: A \\cos(t), E = mc^2.
    match = re.match(r"([A-J])(?=[.):,：。]|\s+[A-Za-z]{2,}|\s*$|[^\x00-\x7f])", plain)
    return frozenset(match[1] if match and not re.search(r"[\\=+^_{}/*<>]", plain) else "")


def chosen(response: str, several: bool = False) -> tuple[str, frozenset[str]]:
    """The rule that found what a response settles on, and its letters, none if there are none.

    With `several`, `BE` is two letters too.
    """
    text = after_thoughts(response)
    mark = last_mark(text)
    if mark and mark.content:
        plain = _plain(mark.content)
        letters = frozenset(plain) - {" "} if several and _ADJACENT.fullmatch(plain) else options(plain)
        letters = letters or (chosen(mark.content, several)[1] if mark.rule in ("<answer>", "JSON") else letters)
        if letters:
            return mark.rule, letters
    after = prepared(text[mark.start :] if mark else text)
    for keyword in list(KEYWORD.finditer(after))[: -LAST_KEYWORDS - 1 : -1]:
        sentence = _plain(first_sentence(after[keyword.end() :]))
        if not after[: keyword.start()].endswith(("<", "/")) and (match := _LONE.search(sentence)):
            listed = _SEVERAL.match(sentence, match.start() - sentence[: match.start()].endswith("("))
            return "the answer is ...", options(listed[0]) if listed else frozenset(match[1])
    if mark:
        return mark.rule, frozenset()
    if letters := options(text):
        return "nothing else", letters
    return "a letter", frozenset(re.findall(r"\(([A-J])\)", text)[-1:] or _LONE.findall(text)[:1])


def _plain(text: str) -> str:
    return _WRAPPER.sub(r"\1", re.sub(r"\\[ ,;()]|\*\*|\$", " ", text)).strip()
