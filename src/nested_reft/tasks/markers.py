r"""Finds the explicit marks of a final answer: `\boxed{...}`, `####`, `<answer>` tags and the `"answer"` of JSON.

The last one in a text counts. Standard library only, and every search is bounded.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

# Boxes this close, with nothing but a separator between them, are one list: \boxed{1} and \boxed{2}.
_BOX_GAP_CHARS = 60

# A value in JSON is read up to so many characters, and so many objects deep.
_VALUE_CHARS = 2_000
_MOST_DEPTH = 3

_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_BOX_SEPARATOR = re.compile(r"\b(?:and|or)\b|[,;]")
_HASHES = re.compile(r"####[ \t]*")
# Four hashes are also a heading of Markdown.
_HEADING = re.compile(
    r"[\s*_]*(?:(?:the )?(?:final |correct )?answer|step|solution|conclusion|case|part|method|verif|explan)",
    re.IGNORECASE,
)
_TAG = re.compile(r"<(/?)(?:final[ _-]?)?answer>", re.IGNORECASE)
_KEY = re.compile(r"""(["'])(?:[a-z]+[ _-]?)?answer\1\s*:\s*|(?<=\{)\s*answer\s*:\s*""", re.IGNORECASE)
_VALUE_KEYS = ("value", "result", "solution", "output")
_WORD = re.compile(r"[A-Za-z]{2,}|[^\x00-\x7f]{2,}")
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{[a-z]+\*?\}|\\[A-Za-z]+")
_COMMAND_ONCE = re.compile(r"(?<!\\)\\[A-Za-z]{2}")
_BRACE = re.compile(r"(?<!\\)(?:\\\\)*([{}])")
_BARE = re.compile(r"[^\s$\\.,;]+")


@dataclass(frozen=True)
class Mark:
    """A marked answer: where its mark starts, and its text, None if the text ends before the answer does.

    `prose` says that the text may be sentences, in which the answer has to be found.
    """

    start: int
    content: str | None
    prose: bool = False


def last_mark(text: str) -> Mark | None:
    """The last marked answer of a text; neighbouring boxes are one list."""
    marks = [mark for mark in (_last_box(text), _last_hashes(text), _last_tag(text), _last_json(text)) if mark]
    return max(marks, key=lambda mark: mark.start, default=None)


def _last_hashes(text: str) -> Mark | None:
    if "####" not in text:
        return None
    last = list(_HASHES.finditer(text))[-1]
    line = text[last.end() :].strip().partition("\n")[0].strip()
    return None if _HEADING.match(line) else Mark(last.start(), line or None)


def _last_tag(text: str) -> Mark | None:
    """What the last pair of `<answer>` and `</answer>` encloses; a tag that is not closed has no answer."""
    if "nswer>" not in text and "NSWER>" not in text:
        return None
    tags = list(_TAG.finditer(text))
    opening = next((tag for tag in reversed(tags) if not tag[1]), None)
    if opening is None:
        return None
    closing = next((tag for tag in tags if tag[1] and tag.start() >= opening.end()), None)
    if closing is None:
        return Mark(opening.start(), None)
    # A box inside is no other answer, so the mark starts after it.
    return Mark(closing.start(), text[opening.end() : closing.start()].strip() or None, prose=True)


def _last_json(text: str) -> Mark | None:
    """The value of the last key "answer", or of a text that is nothing but an object."""
    if "{" not in text or ":" not in text:
        return None
    if keys := [key for key in _KEY.finditer(text) if text[key.end() : key.end() + 1] not in ("\\", "$")]:
        value, end = _json_value(text, keys[-1].end())
        return Mark(end, value, prose=True)
    bare = text.removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    if not (bare.startswith("{") and bare.endswith("}")):
        return None
    try:
        fields = json.loads(bare)
    except (ValueError, RecursionError):
        return None
    key = next((key for key in _VALUE_KEYS if key in fields), next(iter(fields), None) if len(fields) == 1 else None)
    return Mark(0, _plain(fields[key]), prose=True) if key is not None else None


def _json_value(text: str, start: int, depth: int = 0) -> tuple[str | None, int]:
    """The value that starts there, as a text, and where it ends; quotes may be missing, and backslashes single."""
    opening = text[start : start + 1]
    if opening in ('"', "'"):
        match = re.compile(rf"(?:[^{opening}\\]|\\.){{0,{_VALUE_CHARS}}}?{opening}", re.DOTALL).match(text, start + 1)
        if not match:
            return None, len(text)
        content = match[0][:-1].replace(rf"\{opening}", opening)
        if not _COMMAND_ONCE.search(content):
            content = content.replace("\\\\", "\\")
        return content.strip() or None, match.end()
    if opening and opening in "[{":
        end = _closing(text, start)
        inside = text[start + 1 : end]
        if opening == "{":
            colon = re.search(r"""["'](?:value|answer|result)["']\s*:\s*|:\s*""", inside)
            if colon is None or depth == _MOST_DEPTH:
                return None, end
            return _json_value(text, start + 1 + colon.end(), depth + 1)[0], end
        if len(inside) > _VALUE_CHARS:
            return None, end
        return re.sub(r"""(?:(?<=^)|(?<=,))\s*(["'])(.*?)\1\s*(?=,|$)""", r"\2", inside).strip() or None, end
    match = re.compile(rf"[^,}}\n]{{0,{_VALUE_CHARS}}}").match(text, start)
    assert match is not None
    content = match[0].strip()
    return (None if content in ("", "null") else content), match.end()


def _plain(value: object) -> str | None:
    """A value of JSON as the text of an answer."""
    if isinstance(value, list):
        return ", ".join(part for part in map(_plain, value) if part) or None
    return None if value is None or isinstance(value, dict) else str(value)


def _closing(text: str, start: int) -> int:
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] in "[{") - (text[place] in "]}")
        if depth == 0:
            return place
    return len(text)


def _last_box(text: str) -> Mark | None:
    boxes = _boxes(text)
    if not boxes:
        return None
    start = boxes[-1][0]
    if boxes[-1][2] is None:  # cut off: its answer is not known
        return Mark(start, None)
    parts: list[str] = [boxes[-1][2]]
    for (_, end, content), (begin, _, _) in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        gap = text[end:begin]
        if content is None or len(gap) > _BOX_GAP_CHARS or "\n\n" in gap:
            break
        if not _BOX_SEPARATOR.search(gap) and _WORD.search(_COMMAND.sub("", gap)):
            break
        if content != parts[0]:
            parts.insert(0, content)
    joined = ", ".join(parts)
    return Mark(start, _boxes(joined)[-1][2] if _BOX.search(joined) else joined)


def _boxes(text: str) -> list[tuple[int, int, str | None]]:
    """Start, end and content of every box; the content is None if the closing brace is missing."""
    boxes: list[tuple[int, int, str | None]] = []
    position = 0
    while match := _BOX.search(text, position):
        opening = match.end()
        if text[opening : opening + 1] != "{":
            bare = _BARE.match(text, opening)
            position = bare.end() if bare else opening
            boxes.append((match.start(), position, bare[0] if bare else None))
            continue
        depth = 0
        for brace in _BRACE.finditer(text, opening):
            depth += 1 if brace[1] == "{" else -1
            if depth == 0:
                boxes.append((match.start(), brace.end(), text[opening + 1 : brace.end() - 1].strip()))
                position = brace.end()
                break
        else:
            return [*boxes, (match.start(), len(text), None)]
    return boxes
