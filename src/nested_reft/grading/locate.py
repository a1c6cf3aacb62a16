r"""Finds the answer in a response: text in, text out.

The last explicit mark (`marks`) counts; else the last sentence that says what the answer is; else a response that is
nothing but an answer; else the last number or formula. Standard library only, and every search is bounded.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from nested_reft.grading.exact import in_digits
from nested_reft.grading.marks import last_mark
from nested_reft.grading.prose import (
    COMMAND,
    DELIMITED,
    SENTENCE_CHARS,
    bold,
    last_expression,
    prepared,
    starts_with_value,
)
from nested_reft.grading.spelling import WRAPPER, without_remark

TAIL_CHARS = 20_000  # the answer is at the end: only so much of a longer response is read
LAST_KEYWORDS = 4  # so many of the last occurrences of the word "answer" are looked at


class Found(NamedTuple):
    """What a rule found: the sentence that has the answer, and the answer in it, None if there is none."""

    rule: str
    sentence: str
    answer: str | None


KEYWORD = re.compile(r"\b(?:answers?|ans)\b(?:\(s\))?|(?-i:(?:(?<=\n)|\A)[*_ ]*A(?=[*_ ]*:))", re.IGNORECASE)
_NAMED = (
    r"(?:(?:so|thus|hence|therefore|then|and|now|the|an?|my|our|your|its|this|final|correct|right|exact|numerical|short"
    r"|simplified|required|complete|full)\b[\s,]*)"
)
# Before "answer: ...": nothing that makes it an object, as in "to check the answer: ...".
_LABEL = re.compile(rf"(?:\A|[.!?:;,(\n{{>[])[\s#>*_\-\d.)`]*{_NAMED}{{0,4}}\Z", re.IGNORECASE)
_COLON = re.compile(
    r"[\s*_`}\"\])]*(?:[:=|]|\\approx|->|-(?=\s)|\.+(?=\s*-?[0-9])|(?=[ \t]*(?:\\[(\[]|-?[0-9])))[\s*_`}]*"
    r"|[ \t*_`}#:]*\n(?:[-=]{3,}\n)?[\s*_`>=]*"
)
_MODAL = r"(?:will|would|must|should|can|could)\s+"
_VERB = re.compile(
    r"(?:[ \t]+\(.{0,60}?\)|,[^,.\n]{1,60},|[ \t]+(?:to|for|of|in|that|which|we|I|you)\b[^:;\n!?=]{0,150}?)?[\s*_\"]*"
    rf"\b(?:(?:{_MODAL})?(?:is|are|was|were|be|equals?|equal|becomes?|gives|yields|reads|=)"
    rf"|(?:{_MODAL}\w+|\w+s)\s+(?:\w+\s+)?to(?:\s+be)?)(?![A-Za-z])"
    r"(?:\s+(?:\w+ly|thus|therefore|then|just|hence|also|indeed|now|given by|about)\b)*[\s*_]*[:=]?\s*",
    re.IGNORECASE,
)
_REVERSE = re.compile(
    r"([^.!?:;\n]*(?:\.[0-9][^.!?:;\n]*)*?)[\s*_\"]*\s(?:is|are|was|were|(?:must|would|will|should) be|gives|makes)\s+"
    rf"{_NAMED}{{1,3}}\Z",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(
    r"(?<!\b[A-Za-z]\.[A-Za-z])(?<!\bRs)(?<!\\)[.!?](?=[\s\"'*_)]|$)|(?<![:=])\n\s*\n|\n(?=[A-Z#*-])"
)
# What follows a value and is no part of it: "5, which is ...", "5 because ...", "5, and 4 are left".
_REASON = re.compile(
    r",\s+(?!and\b|or\b)[a-z]{2,}\b|\s(?:since|because|as|so|where|which|when)\b|\s—\s"
    r"|,?\s+(?:and|but)\s+(?=[^,]*\b(?:is|are|was|were|has|have|we|it)\b)"
)
# What stands after these in a sentence is a reason, or what the answer is used for.
_CLAUSE = re.compile(r",|:|\b(?:because|since|as|by|from|using)\b")
# Words that a bare answer never has.
_PROSE = re.compile(
    r"\b(?:is|are|was|were|be|has|have|had|it|we|he|she|they|the|this|that|so|thus|hence|therefore)\b", re.IGNORECASE
)
_WORD = re.compile(r"(?!(?:and|or|percent)\b)(?:[A-Za-z]{2,}|[^\W\d_\x00-\x7f]{2,})", re.IGNORECASE)


def first_sentence(text: str) -> str:
    """The first sentence; a full stop inside a formula or braces does not end it."""
    text = text[:SENTENCE_CHARS].lstrip()
    spans = [match.span() for match in DELIMITED.finditer(text)]
    for end in _SENTENCE_END.finditer(text):
        before = text[: end.start()]
        if before.count("{") <= before.count("}") and not any(start < end.start() < stop for start, stop in spans):
            return before
    return text


def statement(text: str, words: bool) -> Found | None:
    """The last sentence that says what the answer is: `The answer is 5`, `Answer: 5`, `5 is the answer`.

    With `words` it may name no number or formula.
    """
    for match in list(KEYWORD.finditer(text))[: -LAST_KEYWORDS - 1 : -1]:
        before, after = text[max(match.start() - 200, 0) : match.start()], text[match.end() :]
        if (reverse := _REVERSE.search(before)) and (answer := last_expression(reverse[1])):
            return Found("... is the answer", reverse[1], answer)
        if label := _COLON.match(after):
            sentence = first_sentence(after[label.end() :]).strip()
            if sentence and _LABEL.search(before if len(before) < 200 else "x " + before):
                return Found("answer: ...", sentence, _stated(sentence))
        elif verb := _VERB.match(after):
            sentence = first_sentence(after[verb.end() :]).strip()
            if sentence and (words or starts_with_value(sentence) or last_expression(_CLAUSE.split(sentence)[0])):
                return Found("the answer is ...", sentence, _stated(sentence))
    return None


def _stated(sentence: str) -> str | None:
    """The answer in the sentence after "answer is": all of it if it is no prose, else its first or last expression."""
    line = sentence if "\\[" in sentence or "{" in sentence else sentence.partition("\n")[0]
    line = without_remark(line.replace("**", "").lstrip("} "))
    if not starts_with_value(line):
        return (bold(sentence) or last_expression(line)) if is_prose(line) else line
    answer = _unbalanced(_REASON.split(line)[0]).strip("*` ")
    return (last_expression(answer, first="=" not in answer) if is_prose(answer) else None) or answer


def _unbalanced(text: str) -> str:
    """Without closing brackets of something that was opened before the text."""
    text = text.strip()
    for opening, closing in (("{", "}"), ("\\[", "\\]"), ("\\(", "\\)"), ("{", "}")):
        while text.endswith(closing) and text.count(opening) < text.count(closing):
            text = text[: -len(closing)].rstrip()
    return text


def is_prose(text: str) -> bool:
    """Whether a text is sentences rather than an answer such as `12 square units`, `no solution` or `x = 3`."""
    if len(text) > 1_000:
        return True
    words = _WORD.findall(COMMAND.sub(" ", WRAPPER.sub(" ", in_digits(text))))
    return bool(_PROSE.search(" ".join(words))) or len(words) > (2 if re.search(r"[0-9]", text) else 5)


# Where a line of several calculations is split, and what one looks like.
_STEP = re.compile(r",\s+|;\s+|\n+|->|\s+and\s+")
_CALCULATED = re.compile(r"[0-9)]\s*(?:[-+*/x]|\\times|\\cdot|\\div)\s*[0-9.(]+[^=,;]*=")
_TITLE = re.compile(r"[\s*_]*[^\W\d_][^\n:=0-9]{0,40}:\s*(.{1,200})")


def after_thoughts(text: str) -> str:
    """The text after a reasoning model's thoughts, which is where its answer is."""
    return (text.rpartition("</think>")[2].strip() or text).strip()


def locate(response: str, words: bool = False) -> Found | None:
    """Where the answer is; with `words`, it may be a word. None if the response is empty."""
    text = after_thoughts(response[-TAIL_CHARS:])
    mark = last_mark(text)
    if mark is None:
        return _unmarked(prepared(text), words)
    inner = locate(mark.content) if mark.prose and mark.content else None
    return Found(mark.rule, mark.content, inner.answer if inner else mark.content or None)


def _unmarked(text: str, words: bool) -> Found | None:
    if stated := statement(text, words):
        return stated
    title = _TITLE.fullmatch(text)
    bare = title[1] if title and starts_with_value(title[1]) else text
    if not is_prose(bare):
        steps = _STEP.split(bare)
        calculated = len(steps) > 1 and ("->" in bare or _CALCULATED.search(steps[-1]))
        return Found("nothing else", bare, (calculated and last_expression(steps[-1])) or bare)
    for line in reversed(text.splitlines()):
        if answer := last_expression(line[-SENTENCE_CHARS:]):
            return Found("last number or formula", line, answer)
    return Found("no number", text.splitlines()[-1], None) if text else None
