r"""Finds the answer in a response: text in, text out. The last explicit mark (`marks`) counts; else the last sentence
that says what the answer is; else a response that is nothing but an answer; else the last number or formula. Standard
library only, and every search is bounded."""

from __future__ import annotations

import re
from typing import NamedTuple

from nested_reft.grading.exact import NUMBER_TEXT, in_digits
from nested_reft.grading.marks import last_mark
from nested_reft.grading.spelling import TOKENS, UNIT, WRAPPER, as_latex, without_remark

TAIL_CHARS = 20_000  # the answer is at the end: only so much of a longer response is read
SENTENCE_CHARS = 2_000  # and so much of a sentence
LAST_KEYWORDS = 4  # so many of the last occurrences of the word "answer" are looked at
SENTENCES = ("<answer>", "JSON")  # marks that may hold sentences


class Found(NamedTuple):
    """What a rule found: the sentence that has the answer, and the answer in it, empty if there is none."""

    rule: str
    sentence: str
    answer: str


def locate(response: str, words: bool = False) -> Found | None:
    """Where the answer is; with `words`, it may be a word. None if the response is empty."""
    text = after_thoughts(response)
    if not (mark := last_mark(text)):
        return _unmarked(prepared(text), words)
    start, rule, content = mark
    if "final answer" in text[start:].lower() and (final := statement(prepared(text[start + len(content) :]), False)):
        return final  # "The final answer is ..." after a box
    inner = locate(content) if rule in SENTENCES else None
    return Found(rule, content, inner.answer if inner else content)


def after_thoughts(response: str) -> str:
    """The end of a response, after a reasoning model's thoughts."""
    return response[-TAIL_CHARS:].rpartition("</think>")[2].strip()


def _unmarked(text: str, words: bool) -> Found | None:
    if stated := statement(text, words):
        return stated
    title = _TITLE.fullmatch(text)
    bare = title[1] if title and _VALUE.match(in_digits(title[1])) else text
    if not is_prose(bare):
        *steps, last = _STEP.split(bare)
        calculated = steps and ("->" in bare or _CALCULATED.search(last))
        return Found("nothing else", bare, (calculated and last_expression(last)) or bare)
    for line in reversed(text.splitlines()):
        if answer := last_expression(line[-SENTENCE_CHARS:]):
            return Found("last number or formula", line, answer)
    return Found("no number", text.splitlines()[-1], "") if text else None


KEYWORD = re.compile(r"(?i)\b(?:answers?|ans)\b(?:\(s\))?|(?-i:(?:(?<=\n)|\A)[*_ ]*A(?=[*_ ]*:))")
_NAMED = (
    r"(?:(?:so|thus|hence|therefore|then|and|now|the|an?|my|our|your|its|this|final|correct|right|exact|numerical|short"
    r"|simplified|required|complete|full)\b[\s,]*)"
)
# Before "answer: ...": nothing that makes it an object, as in "to check the answer: ...".
_LABEL = re.compile(rf"(?i)(?:\A|[.!?:;,(\n{{>[])[\s#>*_\-\d.)`]*{_NAMED}{{0,4}}\Z")
_COLON = re.compile(
    r"[\s*_`}\"\])]*(?:[:=|]|\\approx|->|-(?=\s)|\.+(?=\s*-?[0-9])|(?=[ \t]*(?:\\[(\[]|-?[0-9])))[\s*_`}]*"
    r"|[ \t*_`}#:]*\n(?:[-=]{3,}\n)?[\s*_`>=]*"
)
_VERB = re.compile(
    r"(?i)(?:[ \t]+\(.{0,60}?\)|,[^,.\n]{1,60},|[ \t]+(?:to|for|of|in|that|which|we|I|you)\b[^:;\n!?=]{0,150}?)?"
    r"[\s*_\"]*\b(?:(?:will|would|must|should|can)\s+)?(?:is|are|was|were|be|equals?|becomes?|gives|yields|reads|="
    r"|\w+\s+(?:\w+\s+)?to(?:\s+be)?)(?![A-Za-z])"
    r"(?:\s+(?:\w+ly|thus|therefore|then|just|also|now|about)\b)*[\s*_]*[:=]?\s*"
)
_REVERSE = re.compile(
    r"(?i)([^.!?:;\n]*(?:\.[0-9][^.!?:;\n]*)*?)[\s*_\"]*\s"
    rf"(?:is|are|was|were|(?:must|would|will|should) be|gives|makes)\s+{_NAMED}{{1,3}}\Z"
)
_SENTENCE_END = re.compile(
    r"(?<!\b[A-Za-z]\.[A-Za-z])(?<!\bRs)(?<!\\)[.!?](?=[\s\"'*_)]|$)|(?<![:=])\n\s*\n|\n(?=[A-Z#*-])"
)
# What follows a value and is no part of it: "5, which is ...", "5 because ...", "5, and 4 are left".
_REASON = re.compile(
    r",\s+(?!and\b|or\b)[a-z]{2,}\b|\s(?:since|because|as|so|where|which|when)\b|\s—\s"
    r"|,?\s+(?:and|but)\s+(?=[^,]*\b(?:is|are|was|were|has|have|we|it)\b)"
)
_CLAUSE = re.compile(r",|:|\b(?:because|since|as|by|from|using)\b")
_PAIRS = (("{", "}"), ("\\[", "\\]"), ("\\(", "\\)"))
# Words that a bare answer never has; and what counts as a word.
_PROSE = re.compile(
    r"(?i)\b(?:is|are|was|were|be|has|have|had|it|we|he|she|they|the|this|that|so|thus|hence|therefore)\b"
)
_WORD = re.compile(r"(?i)\b(?!(?:and|or|percent)\b)(?:[A-Za-z]{2,}|[^\W\d_\x00-\x7f]{2,})")
# How a value begins: with a digit, a command or formula, a variable.
_VALUE = re.compile(
    r"[\s*_`\"'=:>~|]*(?:[-+(\[]\s*)*(?:\.?[0-9]|[-+]?\\(?!\))"
    r"|(?-i:[B-HJ-Zb-z]|[Aa](?!\s+[a-z]))(?![A-Za-z'])|[A-Za-z]{1,4}\s?[-+*/^=_(])"
)


def statement(text: str, words: bool) -> Found | None:
    """The last sentence that says what the answer is: `The answer is 5`, `Answer: 5`, `5 is the answer`."""
    for match in list(KEYWORD.finditer(text))[: -LAST_KEYWORDS - 1 : -1]:
        before, after = text[max(match.start() - 200, 0) : match.start()], text[match.end() :]
        if (reverse := _REVERSE.search(before)) and (answer := last_expression(reverse[1])):
            return Found("... is the answer", reverse[1], answer)
        if label := _COLON.match(after):
            sentence = first_sentence(after[label.end() :])
            if sentence and _LABEL.search(before):
                return Found("answer: ...", sentence, _stated(sentence))
        elif verb := _VERB.match(after):
            sentence = first_sentence(after[verb.end() :])
            if sentence and (words or _VALUE.match(in_digits(sentence)) or last_expression(_CLAUSE.split(sentence)[0])):
                return Found("the answer is ...", sentence, _stated(sentence))
    return None


def first_sentence(text: str) -> str:
    """The first sentence; a full stop inside a formula or braces does not end it."""
    text = text[:SENTENCE_CHARS].strip()
    for end in _SENTENCE_END.finditer(text):
        before = text[: end.start()]
        if all(before.count(left) <= before.count(right) for left, right in _PAIRS):
            return before.strip()
    return text


def _stated(sentence: str) -> str:
    """The answer in the sentence after "answer is": all of it if it is no prose, else its last expression."""
    line = sentence if "\\[" in sentence or "{" in sentence else sentence.partition("\n")[0]
    line = without_remark(line.replace("**", "").lstrip("} "))
    if not _VALUE.match(in_digits(line)):
        return (_bold(sentence) or last_expression(line)) if is_prose(line) else line
    answer = _REASON.split(line)[0].strip("*` ")
    for left, right in _PAIRS * 2:  # opened before the answer
        while answer.endswith(right) and answer.count(left) < answer.count(right):
            answer = answer[: -len(right)].rstrip("*` ")
    return (last_expression(answer) if is_prose(answer) and "(if " not in answer else "") or answer


def is_prose(text: str) -> bool:
    """Whether a text is sentences rather than an answer such as `12 square units`, `no solution` or `x = 3`."""
    words = _WORD.findall(_COMMAND.sub(" ", WRAPPER.sub(" ", in_digits(text[:SENTENCE_CHARS]))))
    return bool(_PROSE.search(" ".join(words))) or len(words) > (2 if re.search(r"[0-9]", text) else 5)


# Where a line of several calculations is split, what one looks like, and a value after a title.
_STEP = re.compile(r",\s+|;\s+|\n+|->|\s+and\s+")
_CALCULATED = re.compile(r"[0-9)]\s*(?:[-+*/x]|\\times|\\cdot|\\div)\s*[0-9.(]+[^=,;]*=")
_TITLE = re.compile(r"[\s*_]*[^\W\d_][^\n:=0-9]{0,40}:\s*(.{1,200})")
# A formula between dollar signs, which are money in `$3, so 3 friends pay $9` and in `$12 - $5`.
_IN = r"(?:[^$\\]|\\.){0,2000}"
_FORMULA = re.compile(
    rf"(?<!\\)(\$\$?)((?=\s*[^\s0-9]){_IN}|(?:[0-9]{_IN}(?<!\s)|\s+[0-9]{_IN}\s)(?!\$+[0-9]))\1", re.DOTALL
)
_DELIMITED = re.compile(r"\\\(.{1,2000}?\\\)|\\\[.{1,2000}?\\\]", re.DOTALL)
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{[a-z]+\*?\}|\\[A-Za-z]+")
_NOT_AFTER = r"(?<![A-Za-z0-9_.^\\{])"
_SIGNED = (
    rf"\(*\s*(?:(?<![\w)}}\]])[-+]|(?<=[=(,<>])\s*-\s*)?(?:[0-9]+,[0-9]{{1,2}}(?![0-9,])|{NUMBER_TEXT})"
    r"(?![A-Za-z\\^_{])\)*"
)
_OPERATOR = (
    r"\s*(?:\\times|\\cdot|\\div|\\approx|->|[-+*/=<>^:]|\bx(?=\s*[-(0-9.])|\b(?:times|plus|minus)\b(?=\s*[-(0-9.]))\s*"
)
# A number or a calculation, which may break off; a number that letters follow, as in 5x, is no number by itself.
_EXPRESSION = re.compile(
    rf"{_DELIMITED.pattern}|{_NOT_AFTER}{_SIGNED}(?:(?:{_OPERATOR}|(?=\()){_SIGNED})*"
    rf"(?:\s*[ap]\.?m\b|\s*(?:->|[-+*/=])\s*$)?|{_NOT_AFTER}[0-9.]*[0-9](?=[A-Za-z\\^_{{])[^\s,;]*",
    re.DOTALL,
)
_SUFFIX = re.compile(r"(?<=[0-9])(?:(?:st|nd|rd|th)|(?:[gmlLAWV]|[MG]b)(?!\s*[-+*/^(=]\s*[a-z]\b))\b")
_JOINT = re.compile(r"\s*(?:,?\s*\b(?:and|or)\b|,|;)\s*")
_PART_OF = re.compile(r"\s*(?:\w+\s+)?(?:out\s+)?of\s+(?:the\s+|all\s+)?")
_BOLD = re.compile(r"\*\*([^*\n]{0,200}[^*\n.:])\*\*(?!\s*:)")


def prepared(text: str) -> str:
    r"""The text in ASCII with `\(`, `\[` around its formulas, and no dollar signs of money, nor markers of its end."""
    text = as_latex(TOKENS.sub(" ", text) if "<" in text else text)
    text = re.sub(r"(?<!\\)\$", " ", _FORMULA.sub(r"\\(\2\\)", text).replace("-$", "-"))
    text = re.sub(r"(?<=[0-9A-Za-z)])\*\*(?=-?[0-9(])", "^", re.sub(r"==(\S[^=\n]{0,200}?)==", r"\1", text))
    return _DELIMITED.sub(lambda match: match[0].replace("\n", " "), text)


def last_expression(sentence: str) -> str:
    """The last formula, number or calculation of a sentence, with those that are listed with it; in bold if any is."""
    sentence = UNIT.sub("", in_digits((_bold(sentence) or sentence).replace("**", ""), counts=True))
    spans = list(_EXPRESSION.finditer(_SUFFIX.sub("", sentence) if "=" in sentence else sentence))
    while len(spans) > 1 and _PART_OF.fullmatch(spans[-1].string[spans[-2].end() : spans[-1].start()]):
        spans.pop()  # 5 of the 8
    group = spans[-1:]
    for span in spans[-2::-1]:
        if not _JOINT.fullmatch(span.string[span.end() : group[0].start()]):
            break
        group.insert(0, span)
    texts = [match[0][2:-2] if match[0].startswith(("\\(", "\\[")) else match[0] for match in group]
    if any("=" in match[0] and not match[0].startswith("\\") for match in group):  # steps, of which the last counts
        return re.sub(r"\s*dozens?\b", "", texts[-1].rpartition("=")[2])  # 24/12 = 2 dozen, which is a unit here
    return ", ".join(text.strip() for text in texts)


def _bold(sentence: str) -> str:
    """The last value in bold type, which models put around their answer."""
    texts = [text for text in _BOLD.findall(sentence) if _VALUE.match(in_digits(text))]
    return texts[-1] if texts else ""


# The options of multiple-choice questions: which letters a text settles on.
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
    """The rule that found what a response settles on, and its letters; with `several`, `BE` is two letters too."""
    text = after_thoughts(response)
    if mark := last_mark(text):
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
