"""Finds the final answer in a response: text in, text out, by the conventions that maths benchmarks share.

Order: the last explicit marker (`\\boxed{...}` or `####`), then "answer is ...", then a response that is nothing but an
answer, then the last formula or number, whichever comes last. Standard library only, and every search is bounded.
"""

from __future__ import annotations

import re

# The answer is at the end: only so much of a longer response is read, which bounds the time of every search.
TAIL_CHARS = 20_000
# Boxes this close, with nothing but a separator between them, are one list: \boxed{1} and \boxed{2}.
_BOX_GAP_CHARS = 60

# The end of the sentence after the word "answer" is searched for in so much text.
_SENTENCE_CHARS = 2_000

_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_BOX_SEPARATOR = re.compile(r"\b(?:and|or)\b|[,;]")
_HASHES = re.compile(r"####[ \t]*")
_KEYWORD = re.compile(r"answer\b", re.IGNORECASE)
_FINAL = re.compile(r"final answer\b", re.IGNORECASE)
_COPULA = re.compile(r"\b(?:is|are|equals?|be)\b|[:：]", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?。](?=\s|$)|。|\n\s*\n")
_FORMULA = re.compile(
    r"\$\$([^$]{1,2000})\$\$|(?<![\\\d])\$((?:\\\$|[^$\n]){1,2000})(?<!\\)\$"
    r"|\\\[(.{1,2000}?)\\\]|\\\((.{1,2000}?)\\\)|(-?\\[dtc]?frac\{[^{}]{,200}\}\{[^{}]{,200}\})",
    re.DOTALL,
)
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.])[-−]?[$€£]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)?(?:\.[0-9]+|(?<=[0-9]))"
    r"(?:/[0-9]+)?(?:\s*\\?%)?"
)
_WRAPPED = re.compile(r"\\(?:text[a-z]*|mbox|math(?:rm|bf|it|sf)|operatorname)\s*\{[^{}]*\}")
_WRAPPER = re.compile(r"\\(?:boxed|text[a-z]*|mbox|math(?:rm|bf|it|sf))\s*\{([^{}]*)\}")
_WORD = re.compile(r"[A-Za-z]{2,}|[^\x00-\x7f]{2,}")
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{[a-z]+\*?\}|\\[A-Za-z]+")
# What follows a comma and a word is an explanation: "5, which is ...".
_EXPLANATION = re.compile(r",\s+(?!and\b|or\b)[a-z]{2,}\b")
# Words between or after the parts of an answer that do not make it prose.
_GLUE = {"and", "or", "percent", "pct", "percentage"}
# Words that a bare answer never has.
_PROSE = re.compile(
    r"\b(?:is|are|was|were|be|has|have|had|it|we|he|she|they|the|this|that|so|thus|hence|therefore)\b", re.I
)


def final_answer(response: str) -> str | None:
    """The final answer's text, without box, dollar signs or sentence around it; None if there is none."""
    text = response[-TAIL_CHARS:]
    # A reasoning model's answer follows its thoughts.
    text = (text.rpartition("</think>")[2].strip() or text).strip()
    marked, found = _marked(text)
    if marked:
        return found
    keywords = list(_KEYWORD.finditer(text))
    if keywords and (found := _after_keyword(text[keywords[-1].end() :])):
        return found
    return _unmarked(text)


def choice(text: str) -> str | None:
    """The option letter of a text that is one: `C`, `(C)`, `\\text{C}`, `C. Paris`, `(C) 12`."""
    plain = _WRAPPER.sub(r"\1", re.sub(r"\\[ ,;]|\*\*|\$", " ", text)).strip()
    if match := re.match(r"\(([A-J])\)", plain):
        return match[1]
    # A bare letter before algebra is a variable: A \cos(t), E = mc^2.
    match = re.match(r"([A-J])(?=[.):,：。]|\s+[A-Za-z]{2,}|\s*$|[^\x00-\x7f])", plain)
    return match[1] if match and not re.search(r"[\\=+^_{}/*<>]", plain) else None


def chosen(response: str) -> str | None:
    """The option letter that a response to a multiple-choice question settles on."""
    text = response[-TAIL_CHARS:].strip()
    marked, found = _marked(text)
    if marked:
        return choice(found) if found else None
    # "A" before a lower-case word is the article.
    lone = re.compile(r"(?<![A-Za-z\\])([B-J]|A(?!\s+[a-z]))(?![A-Za-z'])")
    keywords = list(_KEYWORD.finditer(text))
    if keywords:
        match = lone.search(text, keywords[-1].end())
        return match[1] if match else None
    if letter := choice(text):
        return letter
    letters = re.findall(r"\(([A-J])\)", text)[-1:] or lone.findall(text)[:1]
    return letters[0] if letters else None


def formulas(text: str) -> list[tuple[int, int, str]]:
    """Start, end and content of the formulas in a text, `$...$`, `\\(...\\)`, `\\[...\\]` or a bare fraction."""
    found = []
    for match in _FORMULA.finditer(text):
        content = next(group for group in match.groups() if group is not None).strip()
        if content and not _is_prose(content):
            found.append((match.start(), match.end(), content))
    return found


def _marked(text: str) -> tuple[bool, str | None]:
    """Whether there is a box or `####`, and the answer at the last of them."""
    boxes = _boxes(text)
    hashes = list(_HASHES.finditer(text))
    last_box = boxes[-1][0] if boxes else -1
    # Minerva's "Final Answer: The final answer is ..." after the last box overrides it.
    finals = list(_FINAL.finditer(text, last_box + 1))
    if boxes and finals and (found := _after_keyword(text[finals[-1].end() :])):
        return True, found
    if hashes and hashes[-1].start() > last_box:
        line = text[hashes[-1].end() :].strip().partition("\n")[0].strip()
        return True, line or None
    if not boxes:
        return False, None
    if boxes[-1][2] is None:  # cut off: its answer is not known
        return True, None
    parts: list[str] = [boxes[-1][2]]
    for (_, end, content), (start, _, _) in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        gap = text[end:start]
        if content is None or len(gap) > _BOX_GAP_CHARS or "\n\n" in gap:
            break
        if not _BOX_SEPARATOR.search(gap) and _WORD.search(_COMMAND.sub("", gap)):
            break
        if content != parts[0]:
            parts.insert(0, content)
    joined = ", ".join(parts)
    return True, _boxes(joined)[-1][2] if _BOX.search(joined) else joined


def _boxes(text: str) -> list[tuple[int, int, str | None]]:
    """Start, end and content of every box; the content is None if the closing brace is missing."""
    boxes: list[tuple[int, int, str | None]] = []
    position = 0
    while match := _BOX.search(text, position):
        opening = match.end()
        if text[opening : opening + 1] != "{":
            bare = re.compile(r"[^\s$\\.,;]+").match(text, opening)
            position = bare.end() if bare else opening
            boxes.append((match.start(), position, bare[0] if bare else None))
            continue
        depth = 0
        for brace in re.compile(r"(?<!\\)[{}]").finditer(text, opening):
            depth += 1 if brace[0] == "{" else -1
            if depth == 0:
                boxes.append((match.start(), brace.end(), text[opening + 1 : brace.start()].strip()))
                position = brace.end()
                break
        else:
            return [*boxes, (match.start(), len(text), None)]
    return boxes


def _after_keyword(rest: str) -> str | None:
    """The answer in the sentence after the word "answer": after its first "is" or colon, else after its last."""
    sentence = _sentence(rest)
    first = _COPULA.split(sentence, maxsplit=1)[-1]
    for part in (_EXPLANATION.split(first)[0], _COPULA.split(sentence)[-1]):
        candidate = part.strip().strip("*").strip()
        spans = formulas(candidate)
        if spans and not _words(candidate[: spans[-1][0]].replace("answer", "")):
            return candidate if not _has_prose_outside(candidate, spans) else _join(candidate, spans)
        if candidate and not _is_prose(candidate):
            return candidate
    if spans := formulas(sentence):
        return _join(sentence, spans)
    number = _NUMBER.search(first)
    return number[0] if number else None


def _sentence(text: str) -> str:
    text = text[:_SENTENCE_CHARS].lstrip()
    spans = formulas(text)
    for end in _SENTENCE_END.finditer(text):
        # A full stop inside a formula does not end a sentence.
        if not any(start < end.start() < stop for start, stop, _ in spans):
            return text[: end.start()]
    return text


def _unmarked(text: str) -> str | None:
    spans = formulas(text)
    if not _has_prose_outside(text, spans):
        return text.rstrip(".") or None
    numbers = list(_NUMBER.finditer(text))
    if spans and (not numbers or numbers[-1].start() < spans[-1][1]):
        return _join(text, spans)
    return numbers[-1][0] if numbers else None


def _join(text: str, spans: list[tuple[int, int, str]]) -> str:
    """The last formula, with those before it that are joined to it by a comma, "and" or "or"."""
    parts = [spans[-1][2]]
    for (_, end, content), (start, _, _) in zip(spans[-2::-1], spans[:0:-1], strict=True):
        if not re.fullmatch(r"\s*(?:,?\s*\b(?:and|or)\b|,|;)\s*", text[end:start]):
            break
        parts.insert(0, content)
    return ", ".join(parts)


def _has_prose_outside(text: str, spans: list[tuple[int, int, str]]) -> bool:
    outside, position = [], 0
    for start, end, _ in spans:
        outside.append(text[position:start])
        position = end
    rest = " ".join([*outside, text[position:]])
    return bool(_words(rest)) if spans else _is_prose(rest)


def _is_prose(text: str) -> bool:
    """Whether a text is sentences rather than an answer such as `12 square units`, `no solution` or `x = 3`."""
    if len(text) > 1_000 or re.search(r"[^\x00-\x7f]{4,}", text):
        return True
    words = _words(text)
    return bool(_PROSE.search(" ".join(words))) or len(words) > (2 if re.search(r"[0-9]", text) else 5)


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(_COMMAND.sub(" ", _WRAPPED.sub(" ", text))) if word.lower() not in _GLUE]
