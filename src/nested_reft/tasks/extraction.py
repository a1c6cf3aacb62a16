r"""Finds the final answer in a response: text in, text out, by the conventions that maths benchmarks share.

Order: the last explicit mark (`markers`: a box, `####`, a tag, JSON), then "answer is ...", then a response that is
nothing but an answer, then the last formula or number, whichever comes last. Standard library only, and every search is
bounded.
"""

from __future__ import annotations

import re
from dataclasses import replace

from nested_reft.tasks.markers import Mark, last_mark
from nested_reft.tasks.spelling import without_reason

# The answer is at the end: only so much of a longer response is read, which bounds the time of every search.
TAIL_CHARS = 20_000
# The end of the sentence after the word "answer" is searched for in so much text.
_SENTENCE_CHARS = 2_000
# So many of the last occurrences of the word "answer" are looked at.
_LAST_KEYWORDS = 3

_KEYWORD = re.compile(r"answers?\b", re.IGNORECASE)
_FINAL = re.compile(r"final answer\b", re.IGNORECASE)
_ADVERB = r"(?:\s+(?:thus|therefore|then|simply|just|exactly|hence|also|indeed|now|clearly|given by|equal to)\b)*"
_COPULA = re.compile(rf"\b(?:is|are|equals?|be)\b{_ADVERB}[\s*_]*[:：=]?|(?<![0-9])[:：]", re.IGNORECASE)
# Right after the word "answer": "**:**", "is:", "(s) are", "=".
_LEAD = re.compile(
    rf"(?:\(s\))?[\s*_`#]*(?:(?:is|are|was|equals?|(?:will|would|must|should) be)\b{_ADVERB}[\s*_]*)?"
    r"(?:[:：=]|[-–—](?=\s))?[\s*_`]*",
    re.IGNORECASE,
)
_START = re.compile(r"[-+]?[0-9$\\(\[]")
_SENTENCE_END = re.compile(r"(?<!\b[A-Za-z]\.[A-Za-z])[.!?。](?=\s|$)|。|(?<![:：=])(?<!:\*)\n\s*\n")
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
_WORD = re.compile(r"[A-Za-z]{2,}|[^\x00-\x7f]{2,}")
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{[a-z]+\*?\}|\\[A-Za-z]+")
# What follows a comma and a word is an explanation: "5, which is ...", and "5 because ...".
_EXPLANATION = re.compile(r",\s+(?!and\b|or\b)[a-z]{2,}\b|\s(?:since|because|as|so|where|which|when)\b|\s[—–]\s")
# And so is another clause: "5, and 4 are left".
_CLAUSE = re.compile(r",?\s+(?:and|but)\s+(?=[^,]*\b(?:is|are|was|were|has|have|we|it)\b)")
# Words between or after the parts of an answer that do not make it prose.
_GLUE = {"and", "or", "percent", "pct", "percentage"}
# Words that a bare answer never has.
_PROSE = re.compile(
    r"\b(?:is|are|was|were|be|has|have|had|it|we|he|she|they|the|this|that|so|thus|hence|therefore)\b", re.I
)


def final_answer(response: str) -> str | None:
    """The final answer's text, without mark, dollar signs or sentence around it; None if there is none."""
    text = after_thoughts(response[-TAIL_CHARS:])
    if mark := marked(text):
        return final_answer(mark.content) if mark.content and mark.prose else mark.content
    for end in keywords(text):
        if found := _after_keyword(text[end:]):
            return found
    return _unmarked(text)


def after_thoughts(text: str) -> str:
    """The text after a reasoning model's thoughts, which is where its answer is."""
    return (text.rpartition("</think>")[2].strip() or text).strip()


def marked(text: str) -> Mark | None:
    """The last marked answer, or "the final answer is ..." after it, as Minerva's prompt has it."""
    mark = last_mark(text)
    if mark is None:
        return None
    for final in list(_FINAL.finditer(text, mark.start + 1))[-1:]:
        rest = text[final.end() :]
        if _says(rest[:_SENTENCE_CHARS]) and (found := _after_keyword(rest)):
            return replace(mark, content=found, prose=False)
    return mark


def keywords(text: str) -> list[int]:
    """Where the word "answer" ends, the last one first; of several, those where it is said what the answer is."""
    ends = [match.end() for match in _KEYWORD.finditer(text)][: -_LAST_KEYWORDS - 1 : -1]
    return [end for end in ends if len(ends) == 1 or _says(text[end : end + _SENTENCE_CHARS])]


def _says(rest: str) -> bool:
    """Whether an answer follows the word "answer": after "is", a colon or a heading, or directly."""
    lead = _LEAD.match(rest)
    assert lead is not None
    return bool(re.search(r"[:：=\n]", lead[0]) or _COPULA.search(_sentence(rest)) or _START.match(rest, lead.end()))


def formulas(text: str) -> list[tuple[int, int, str]]:
    """Start, end and content of the formulas in a text, `$...$`, `\\(...\\)`, `\\[...\\]` or a bare fraction."""
    found = []
    for match in _FORMULA.finditer(text):
        content = next(group for group in match.groups() if group is not None).strip()
        if content and not _is_prose(content):
            found.append((match.start(), match.end(), content))
    return found


def _after_keyword(rest: str) -> str | None:
    """The answer in the sentence after the word "answer": after its first "is" or colon, else after its last."""
    lead = _LEAD.match(rest)
    assert lead is not None
    said = re.search(r"[a-z:：=\n]", lead[0], re.IGNORECASE) is not None
    sentence = _sentence(rest[lead.end() :])
    first = sentence if said else _COPULA.split(sentence, maxsplit=1)[-1]
    until = [pattern.split(first)[0] for pattern in (_EXPLANATION, _CLAUSE)]
    for part in (_first_line(first), *until, _COPULA.split(sentence)[-1]):
        candidate = without_reason(part.strip().strip("*`").strip())
        spans = formulas(candidate)
        if spans and not _words(candidate[: spans[-1][0]].replace("answer", "")):
            return candidate if not _has_prose_outside(candidate, spans) else _join(candidate, spans)
        if candidate and not _is_prose(candidate):
            return candidate
    if spans := formulas(sentence):
        return _join(sentence, spans)
    number = _NUMBER.search(first)
    return number[0] if number else None


def _first_line(text: str) -> str:
    """The first line, without an explanation after the answer; a formula is not cut."""
    line = text.strip()
    end = line.find("\n")
    if end >= 0 and not any(start < end < stop for start, stop, _ in formulas(line)):
        line = line[:end]
    return _EXPLANATION.split(line)[0]


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
    if _is_formula(text) or not _has_prose_outside(text, spans):
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


def _is_formula(text: str) -> bool:
    """Whether a text is LaTeX without dollar signs, in which letters are variables: no word is by itself."""
    plain = _COMMAND.sub(" ", _WRAPPED.sub(" ", text)) if len(text) <= 1_000 and "\\" in text else "word"
    return not re.search(r"[$#]|(?<!\S)[A-Za-z]{2,}(?![^\s.,;:!?])|[^\x00-\x7f]{4,}", plain)


def _is_prose(text: str) -> bool:
    """Whether a text is sentences rather than an answer such as `12 square units`, `no solution` or `x = 3`."""
    if len(text) > 1_000 or re.search(r"[^\x00-\x7f]{4,}", text):
        return True
    words = _words(text)
    return bool(_PROSE.search(" ".join(words))) or len(words) > (2 if re.search(r"[0-9]", text) else 5)


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(_COMMAND.sub(" ", _WRAPPED.sub(" ", text))) if word.lower() not in _GLUE]
