"""Grades a response against a gold answer: the verifiable reward.

The answer is found in the response (`locate`), brought to one spelling (`spelling`) and compared
(`compare`): numbers in exact rational arithmetic (`exact`), what needs algebra by math-verify in a worker (`formulas`).
Where benchmarks disagree, this is strict, because a false accept teaches a policy to be wrong; see docs/grading.md.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from functools import lru_cache
from typing import Literal, NamedTuple

from nested_reft.grading.compare import MAX_CHARS, SECONDS, Trace, equal
from nested_reft.grading.locate import chosen, locate, options, prepared
from nested_reft.grading.spelling import clean, without_remark

logger = logging.getLogger(__name__)
_cut_off = Counter[str]()

MARKS = ("\\boxed", "####", "<answer>", "JSON")
_DIGITS = re.compile("[0-9]{1,99}")
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[\s'-]+[^\W\d_]+)*")
_NEGATION = re.compile(r"\b(?:not|no|never|neither|nor|cannot|or|isn't|aren't|doesn't)\b")


class Verdict(NamedTuple):
    """Whether a response is right, by which rule its answer was found, and by which it was compared."""

    right: bool
    found_by: str
    compared_by: str = "no answer"


def grade(response: str, gold: str, answer: Literal["any", "marked"] = "any") -> bool:
    r"""Whether the response's final answer equals the gold answer: the verifiable reward.

    No text makes it raise, and the text of a model is never run as code.

    Args:
        response: a model's text of any length, or a bare answer.
        gold: a bare answer, or a solution that holds one.
        answer: `marked` if only an answer in a mark counts: `\boxed{...}`, after `####`, in `<answer>`, in JSON.

    Returns:
        Whether they are equal. A comparison of more than about a second is cut off, logged, and counts as wrong.

    Raises:
        RuntimeError: the worker that runs math-verify cannot be started, which must not count as wrong answers.
    """
    verdict = decide(response, gold)
    return verdict.right and (answer == "any" or verdict.found_by in MARKS)


def timeouts() -> int:
    """How many answers this process has counted as wrong because their comparison was cut off at a time limit."""
    return _cut_off["answers"]


def decide(response: str, gold: str) -> Verdict:
    """The verdict of `grade` with the rules that made it."""
    expected, words, letters, literal = _gold_answer(gold)
    if letters:
        rule, choice = chosen(response, len(letters) > 1)
        if choice:
            return Verdict(choice == letters, rule, "option")
    found = locate(response, words)
    if found is None or not expected:
        return Verdict(False, "no answer")
    answer = found.answer
    if _DIGITS.fullmatch(expected) and _DIGITS.fullmatch(answer):
        return Verdict(int(answer) == int(expected), found.rule, "number")
    if {gold.strip(), literal} & {answer, _bare(found.sentence), _bare(without_remark(found.sentence[:MAX_CHARS]))}:
        return Verdict(True, found.rule, "text")
    trace = Trace()
    right = equal(clean(answer[: MAX_CHARS + 1]), expected, trace)
    if not right and words and _says(found.sentence, expected):
        right = trace.by("words", True)
    if not right and trace.seconds > SECONDS:
        _cut_off["answers"] += 1
        logger.warning("grading was cut off and counts as wrong: answer %.80r, gold %.80r", answer, gold)
    return Verdict(right, found.rule, trace.rule)


@lru_cache(maxsize=1024)  # the completions of one problem share a gold answer
def _gold_answer(gold: str) -> tuple[str, bool, frozenset[str], str]:
    """The gold answer, cleaned; whether it is words; its letters if it is options; its text as sentences quote it."""
    if _DIGITS.fullmatch(gold):
        return gold, False, frozenset(), gold
    found = locate(gold, words=True)
    answer = (found.answer or found.sentence) if found else ""
    expected = clean(answer[: MAX_CHARS + 1])
    return expected, bool(_WORDS.fullmatch(expected)), options(gold) or options(answer), _bare(prepared(gold))


def _bare(text: str) -> str:
    return text.strip(" .*`").removeprefix(r"\(").removesuffix(r"\)").strip()


def _says(sentence: str, expected: str) -> bool:
    """Whether a sentence ends with the words of the gold answer, or says its yes or no last, and denies nothing."""
    text, words = clean(sentence[:MAX_CHARS]).casefold(), expected.casefold()
    if words in ("yes", "no", "true", "false"):
        return re.findall(r"\b(yes|no|true|false)\b(?=\s*(?:[.,!;:]|$))", text)[-1:] == [words]
    before, _, after = text.rpartition(words)
    return not after and not re.search(r"\w$", before) and not _NEGATION.search(re.split(r"\bbut\b|[,;:]", before)[-1])
