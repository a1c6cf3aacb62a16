r"""Finds the answer in a response: text in, text out.

The last explicit mark (`marks`) counts; else the last sentence that says what the answer is; else a response that is
nothing but an answer; else the last number or formula. Standard library only, and every search is bounded.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from nested_reft.grading.exact import NUMBER_TEXT, calculation, in_digits, number
from nested_reft.grading.marks import last_mark
from nested_reft.grading.spelling import WRAPPER, without_remark, without_units
from nested_reft.grading.unicode import as_latex

TAIL_CHARS = 20_000  # the answer is at the end: only so much of a longer response is read
SENTENCE_CHARS = 2_000  # a sentence that has it is read up to so many characters
LAST_KEYWORDS = 4  # so many of the last occurrences of the word "answer" are looked at


class Found(NamedTuple):
    """What a rule found: the sentence that has the answer, and the answer in it, None if there is none."""

    rule: str
    sentence: str
    answer: str | None


_NO_TEXT = re.compile(
    r"<\|[^<>|]{1,40}\|>|</s>|<eos>|</?(?:b|i|u|em|strong|p|br|div|h[1-6]|center|span|code)\b[^<>]{0,40}>"
)
_DOLLAR = re.compile(r"(?<!\\)\$\$?")
_MONEY = re.compile(r"(?:(?<=-)|\b(?:US|[AC])?)\\\$")
_HIGHLIGHT = re.compile(r"==(\S[^=\n]{0,200}?)==")
_POWER = re.compile(r"(?<=[0-9A-Za-z)])\*\*(?=-?[0-9(])")
_DELIMITED = re.compile(r"\\\(.{1,2000}?\\\)|\\\[.{1,2000}?\\\]", re.DOTALL)
_LONG_WORD = re.compile(r"[A-Za-z]{3,}")
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
_ORDINAL = re.compile(r"([0-9]+)(?:st|nd|rd|th)\b")
_LETTER_UNIT = re.compile(r"(?<=[0-9])(?:[gmlLAWV]|[MG]b)\b(?!\s*[-+*/^(=]\s*[a-z]\b)")
_THOUSANDS = re.compile(r"(?<![0-9.])[0-9]{1,3}(?:(?:,[0-9]{2,3})*,[0-9]{3}|(?:[ '][0-9]{3})+)(?![0-9])")
_JOINT = re.compile(r"\s*(?:,?\s*\b(?:and|or)\b|,|;)\s*")
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*(?!\s*:)")
_PART_OF = re.compile(r"\s*(?:\w+\s+)?(?:out\s+)?of\s+(?:the\s+|all\s+)?")
# A number in words after these says when, where or of what, not how many; and none counts after a calculation.
_CONTEXT = re.compile(
    r"=|\b(?:in|the|for|with|by|per|after|from|at|on|each|every|these|both|other|this|that|no)\s+$", re.I
)


def prepared(text: str) -> str:
    r"""The text in ASCII with `\(`, `\[` around its formulas, and no dollar signs of money, nor markers of its end."""
    text = as_latex(_NO_TEXT.sub(" ", text) if "<" in text else text)
    text = _delimited(text) if "$" in text else text
    text = _POWER.sub("^", _HIGHLIGHT.sub(r"\1", text))
    return _DELIMITED.sub(lambda match: match[0].replace("\n", " "), text)


def _delimited(text: str) -> str:
    """Dollar signs in pairs around a formula become its delimiters; others are money, and dropped."""
    pieces = []
    while opening := _DOLLAR.search(text):
        closing = _DOLLAR.search(text, opening.end())
        content = text[opening.end() : closing.start()] if closing else ""
        pieces.append(text[: opening.start()])
        if closing and closing[0] == opening[0] and _is_formula(content, text[closing.end() : closing.end() + 1]):
            pieces.append(rf"\[{content}\]" if closing[0] == "$$" else rf"\({content}\)")
            text = text[closing.end() :]
        else:
            pieces.append("" if pieces[-1].endswith("-") else " ")
            text = text[opening.end() :]
    return _MONEY.sub("", "".join(pieces) + text)


def _is_formula(content: str, after: str) -> bool:
    """Whether a text between dollar signs is a formula, and not `3, so 3 friends pay ` or `12 - `."""
    if not content.strip() or len(content) > SENTENCE_CHARS:
        return False
    if content.lstrip()[0] in "0123456789" and (after.isdigit() or content[0].isspace() != content[-1].isspace()):
        return False
    return len(_LONG_WORD.findall(_COMMAND.sub(" ", WRAPPER.sub(" ", content)))) < 2


def last_expression(sentence: str, first: bool = False) -> str | None:
    """The last formula, number or calculation of a sentence (or the first), with those that are listed with it."""
    if not first and (bold := _bold(sentence)):
        return last_expression(bold)
    sentence = without_units(in_digits(sentence.replace("**", ""), _CONTEXT))
    if "=" in sentence:
        sentence = _LETTER_UNIT.sub("", _ORDINAL.sub(r"\1", sentence))
    spans = list(_EXPRESSION.finditer(sentence))
    spans = [match for match in spans if not _ORDINAL.match(match[0])] or spans
    while not first and len(spans) > 1 and _PART_OF.fullmatch(sentence[spans[-2].end() : spans[-1].start()]):
        spans.pop()  # 5 of the 8
    group = spans[:1] if first else spans[-1:]
    for span in spans[1:] if first else spans[-2::-1]:
        left, right = (group[-1], span) if first else (span, group[0])
        if not _JOINT.fullmatch(sentence[left.end() : right.start()]):
            break
        group.insert(len(group) if first else 0, span)
    texts = [match[0][2:-2] if match[0].startswith(("\\(", "\\[")) else match[0] for match in group]
    if any("=" in match[0] and not match[0].startswith("\\") for match in group):  # steps, of which the last counts
        return _result(_THOUSANDS.sub(lambda match: re.sub("[^0-9]", "", match[0]), texts[-1]))
    return ", ".join(text.strip() for text in texts) or None


def _bold(sentence: str) -> str | None:
    """The last value in bold type, which models put around their answer."""
    texts = [text for text in _BOLD.findall(sentence) if _starts_with_value(text) and not text.endswith((".", ":"))]
    return texts[-1] if texts else None


def _result(step: str) -> str:
    """The right side of a calculation; a magnitude after it is a unit if the calculation says so: 24/12 = 2 dozen."""
    left, _, right = step.rpartition("=")
    value, plain = calculation(left.rpartition("=")[2].strip()), re.match(r"\s*[-+]?[0-9.,]+", right)
    return plain[0] if plain and value and (found := number(plain[0].strip())) and found.value == value.value else right


# --- sentences that say what the answer is --------------------------------------------------------------------------

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
    rf"\b(?P<verb>(?:{_MODAL})?(?:is|are|was|were|be|equals?|equal|becomes?|gives|yields|reads|=)"
    rf"|(?:{_MODAL}\w+|\w+s)\s+(?:\w+\s+)?to(?:\s+be)?)(?![A-Za-z])"
    r"(?:\s+(?:\w+ly|thus|therefore|then|just|hence|also|indeed|now|given by|about)\b)*[\s*_]*[:=]?\s*",
    re.IGNORECASE,
)
_REVERSE = re.compile(
    r"([^.!?:;\n]*(?:\.[0-9][^.!?:;\n]*)*?)[\s*_\"]*\s(?:is|are|was|were|(?:must|would|will|should) be|gives|makes)\s+"
    rf"{_NAMED}{{1,3}}\Z",
    re.IGNORECASE,
)
# How a value begins: with a digit, a command or formula, a variable.
_VALUE = re.compile(
    r"[\s*_`\"'=:>~|]*(?:[-+(\[]\s*)*(?:\.?[0-9]|[-+]?\\(?!\))"
    r"|(?-i:[B-HJ-Zb-z]|[Aa](?!\s+[a-z]))(?![A-Za-z'])|[A-Za-z]{1,4}\s?[-+*/^=_(])"
)
_SENTENCE_END = re.compile(
    r"(?<!\b[A-Za-z]\.[A-Za-z])(?<!\bRs)(?<!\\)[.!?](?=[\s\"'*_)]|$)|(?<![:=])\n\s*\n|\n(?=[A-Z#*-])"
)
# What follows a value and is no part of it: "5, which is ...", "5 because ...", "5, and 4 are left".
_REASON = re.compile(
    r",\s+(?!and\b|or\b)[a-z]{2,}\b|\s(?:since|because|as|so|where|which|when)\b|\s—\s"
    r"|,?\s+(?:and|but)\s+(?=[^,]*\b(?:is|are|was|were|has|have|we|it)\b)"
)
_SAYS = re.compile(r"\b(?:is|are|was|were|equals?|be|has|have|had|gets?|makes?|needs?|total(?:s| of)|=|:)(?=\s)")
# Words that a bare answer never has.
_PROSE = re.compile(
    r"\b(?:is|are|was|were|be|has|have|had|it|we|he|she|they|the|this|that|so|thus|hence|therefore)\b", re.IGNORECASE
)
_WORD = re.compile(r"(?!(?:and|or|percent)\b)(?:[A-Za-z]{2,}|[^\W\d_\x00-\x7f]{2,})", re.IGNORECASE)


def _starts_with_value(text: str) -> bool:
    return _VALUE.match(in_digits(text)) is not None


def first_sentence(text: str) -> str:
    """The first sentence; a full stop inside a formula or braces does not end it."""
    text = text[:SENTENCE_CHARS].lstrip()
    spans = [match.span() for match in _DELIMITED.finditer(text)]
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
            if sentence and _states(sentence, verb["verb"], words):
                return Found("the answer is ...", sentence, _stated(sentence))
    return None


def _states(sentence: str, verb: str, words: bool) -> bool:
    """Whether a value follows directly, or after "is" in the words before the first comma or reason."""
    if re.match(r"(?:not|no)\b|n't", sentence, re.IGNORECASE) and not words:
        return False
    clause = re.split(r",|:|\b(?:because|since|as|by|from|using)\b", sentence)[0]
    is_said = re.search(r"(?:is|are|was|be)$", verb, re.IGNORECASE) is not None
    return _starts_with_value(sentence) or (is_said and (words or last_expression(clause) is not None))


def _stated(sentence: str) -> str | None:
    """The answer in the sentence after "answer is": all of it if it is no prose, else its first or last expression."""
    line = sentence if "\\[" in sentence or "{" in sentence else sentence.partition("\n")[0]
    line = without_remark(line.replace("**", "").lstrip("} "))
    if not _starts_with_value(line):
        return (_bold(sentence) or said(line) or last_expression(line)) if is_prose(line) else line
    answer = _unbalanced(_REASON.split(line)[0]).strip("*` ")
    if not is_prose(answer):
        return answer
    return last_expression(answer if "=" in answer else line, first="=" not in answer) or answer


def said(line: str) -> str | None:
    """The value right after the only verb that has one, as in `The price of 2 shirts is $50`."""
    ends = [match.end() for match in _SAYS.finditer(line) if _starts_with_value(line[match.end() :])]
    return last_expression(line[ends[0] :], first=True) if len(ends) == 1 else None


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
    words = _WORD.findall(_COMMAND.sub(" ", WRAPPER.sub(" ", in_digits(text))))
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
    rest = text[mark.start + 1 :]
    if mark.rule == "\\boxed" and "final answer" in rest.lower() and (final := statement(prepared(rest), False)):
        return final  # "The final answer is ..." after a box, as Minerva's prompt has it
    answer: str | None = mark.content or None
    if mark.prose and answer and (inner := locate(answer)):
        answer = inner.answer
    elif answer and _LONG_WORD.search(answer) and is_prose(line := WRAPPER.sub(r"\1", answer)):
        answer = said(prepared(line)) or answer
    return Found(mark.rule, mark.content, answer)


def _unmarked(text: str, words: bool) -> Found | None:
    if stated := statement(text, words):
        return stated
    title = _TITLE.fullmatch(text)
    bare = title[1] if title and _starts_with_value(title[1]) else text
    if not is_prose(bare):
        steps = _STEP.split(bare)
        calculated = len(steps) > 1 and ("->" in bare or _CALCULATED.search(steps[-1]))
        return Found("nothing else", bare, (calculated and last_expression(steps[-1])) or bare)
    for line in reversed(text.splitlines()):
        if answer := last_expression(line[-SENTENCE_CHARS:]):
            return Found("last number or formula", line, answer)
    return Found("no number", text.splitlines()[-1], None) if text else None
