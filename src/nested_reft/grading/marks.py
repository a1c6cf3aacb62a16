r"""Finds the explicit marks of a final answer: `\boxed{...}`, `####`, `<answer>` tags and the `"answer"` of JSON. The
last one in a text counts. Standard library only, and every search is bounded."""

from __future__ import annotations

import re

_BOX_GAP_CHARS = 60  # boxes this close, with a separator between them, are one list: \boxed{1} and \boxed{2}
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|([^\s$\\.,;{]+))?")
_NO_SEPARATOR = re.compile(r"\n\n|\A(?!.*(?:\b(?:and|or)\b|[,;])).*(?<![\\A-Za-z])[A-Za-z]{2,}", re.DOTALL)
_BRACE = re.compile(r"(?<!\\)(?:\\\\)*([{}])")
# What belongs to a number in a box, but stands outside: a sign (not the dash of a list), per cent, million, 10^3, x.
_SIGN_BEFORE = re.compile(r"(?:(?:\A|[=\s(\[$>~])-|[=$(\[]\s*-\s*)\Z")
_AFTER = re.compile(
    r"(?:\\[)\]]|[\s$}*])*(\\?%|(?:\\text\s*\{)?\s*(?:percent|hundred|thousand|million|billion|trillion|dozen)\b"
    r"|\s*\\times\s*10\s*\^\s*(?:\{-?[0-9]+\}|[0-9])|(?<=\})(?:\\sqrt|\\pi|[a-z](?![a-z]))[^$\s]*)"
)
# Four hashes, which in Markdown are also a heading; a group in braces may go on in the next line.
_HASHES = re.compile(
    r"####(?!(?i:[\s*_]*(?:(?:the )?(?:final |correct )?answer|step|solution|case|part|method|verif)))\s*"
    r"(?P<content>(?:\{[^{}]*\}|[^\n])*)"
)
_TAG = re.compile(r"(?is)<(?:final[ _-]?)?answer>(?:(?P<content>.{0,2000}?)</(?:final[ _-]?)?answer>)?")
_STRING = r"\"(?:[^\"\\]|\\.){0,2000}\"|'(?:[^'\\]|\\.){0,2000}'"
_KEY = re.compile(
    r"(?i)([\"'])(?:[a-z]+[ _-]?)?(?:answer|result)\1\s*:\s*"
    rf"(?P<content>{_STRING}|\[[^\[\]]{{0,2000}}\]|[^,}}\n]{{0,2000}})"
)
# Where a mark is, which it is, and the text in it, empty if the response ends before it does.
Mark = tuple[int, str, str]


def last_mark(text: str) -> Mark | None:
    """The last marked answer of a text; neighbouring boxes are one list."""
    marks = [_last_box(text)] if "\\boxed" in text or "\\fbox" in text else []
    for rule, needle, pattern in (("####", "####", _HASHES), ("<answer>", "nswer>", _TAG), ("JSON", ":", _KEY)):
        if needle in text and (found := list(pattern.finditer(text))):
            content = (found[-1]["content"] or "").strip()
            marks.append((found[-1].start(), rule, _from_json(content) if rule == "JSON" else content))
    return max(marks, default=None)


def _from_json(value: str) -> str:
    """A value without quotes and brackets, and with single backslashes."""
    value = re.sub(r"[\"'](?=,|\Z)|(?:\A|(?<=,))\s*[\"']", "", value.strip("[] "))
    return "" if value == "null" else value.replace("\\n ", " ").replace("\\\\", "\\")


def _last_box(text: str) -> Mark:
    boxes = _boxes(text)
    start, end, last = boxes[-1]
    parts = [last]
    for (_, stop, content), (begin, _, _) in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        gap = text[stop:begin]
        if not content or not last or len(gap) > _BOX_GAP_CHARS or _NO_SEPARATOR.search(gap):
            break
        parts.insert(0, content)
    if len(parts) == 1 and last and last[0] in "0123456789$\\":
        near = text[max(start - 10, 0) : start]
        sign = "-" if "-" in near and _SIGN_BEFORE.search(near) else ""
        after = _AFTER.match(text, end)
        parts = [sign + last + (" " + after[1].replace("\\text", "").replace("{", "") if after else "")]
    return start, "\\boxed", ", ".join(parts)


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """Start, end and content of every box; the content is empty if the closing brace is missing."""
    boxes: list[tuple[int, int, str]] = []
    position = 0
    while match := _BOX.search(text, position):
        position, depth = match.end(), match[0].count("{")
        braces = _BRACE.finditer(text, position)
        while depth and (brace := next(braces, None)):
            position, depth = brace.end(), depth + (1 if brace[1] == "{" else -1)
        if depth:
            return [*boxes, (match.start(), len(text), "")]
        boxes.append((match.start(), position, match[1] or text[match.end() : position - 1].strip()))
    return boxes
