"""Generated word problems for the laptop experiment: a story of additions, subtractions and multiplications.

Every number is one token, so that small models can learn the arithmetic itself, and every word is known to the
tokenizer. Train and test are split by the *numbers* of a problem (`is_test_numbers`): no numbers of a test problem
ever occur together in a training problem, in whatever order, phrasing or operations.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from nested_reft.config.sources import GeneratedProblems, Role
from nested_reft.data.records import DataError, Problem

MAX_NUMBER = 99
TEST_SHARE = 8  # one in so many sets of numbers belongs to the test problems
FACTORS = (2, 3)
MAX_DRAWS = 10_000  # failed draws after which the settings are taken to have no story
REMEDY = "widen `start`, `operands` or `steps`"

NAMES = ("tom", "ana", "ben", "eva", "sam", "mia")
THINGS = ("apples", "books", "coins", "cards", "pens", "shells")

# Two families of phrasings. The fine-tuning set uses `standard` only; `new` is held back for a benchmark.
STORIES = {
    "standard": {
        "start": ("{name} has {n} {thing} .",),
        "+": ("{name} buys {n} more .", "{name} finds {n} more ."),
        "-": ("{name} loses {n} of them .", "{name} gives {n} away ."),
        "*": ("then {name} has {n} times as many .",),
        "question": ("how many {thing} now ?",),
    },
    "new": {
        "start": ("{n} {thing} lie in the box of {name} .",),
        "+": ("a friend adds {n} .", "{n} others are put in ."),
        "-": ("a friend takes {n} out .", "{n} of them break ."),
        "*": ("the number grows to {n} times that .",),
        "question": ("number of {thing} in the end ?",),
    },
}
DISTRACTOR = "{name} has {n} {thing} too ."

Operation = Literal["+", "-", "*"]
OPERATIONS: tuple[Operation, ...] = ("+", "-", "*")


@dataclass(frozen=True)
class Story:
    """A problem before it is worded: `start`, then one operation and operand per step."""

    start: int
    steps: tuple[tuple[Operation, int], ...]
    question: str
    numbers_shown: tuple[int, ...]

    @property
    def operands(self) -> tuple[int, ...]:
        """The numbers that the answer depends on."""
        return (self.start, *(operand for _, operand in self.steps))


def apply(value: int, operation: Operation, operand: int) -> int | None:
    """The result of one step, or None if it is not a number that the tokenizer has."""
    result = {"+": value + operand, "-": value - operand, "*": value * operand}[operation]
    return result if 0 <= result <= MAX_NUMBER else None


def is_test_numbers(numbers: tuple[int, ...]) -> bool:
    """Whether this set of numbers belongs to the test problems; the order does not matter."""
    digest = hashlib.sha256(repr(sorted(numbers)).encode()).digest()
    return digest[0] % TEST_SHARE == 0


def allowed(story: Story, role: Literal["train", "test"]) -> bool:
    """A test story has test numbers both with and without its distractors; a training story in neither case."""
    folds = {is_test_numbers(story.operands), is_test_numbers(story.numbers_shown)}
    return folds == {role == "test"}


def solution(story: Story) -> str:
    """The worked solution; stories are drawn so that it exists."""
    text = _written(story, tuple(operation for operation, _ in story.steps))
    assert text is not None
    return text


def _written(story: Story, operations: tuple[Operation, ...]) -> str | None:
    """A solution with these operations in place of the story's; None if it is not computable."""
    value, parts = story.start, [str(story.start)]
    for used, (_, operand) in zip(operations, story.steps, strict=True):
        result = apply(value, used, operand)
        if result is None:
            return None
        parts.append(f"{used} {operand} -> {result}")
        value = result
    return " ".join([*parts, f"#### {value}"])


def wrong_solution(story: Story, rng: random.Random) -> str | None:
    """Right numbers, wrong operation in at least one step: what a model that can calculate but misreads would write.

    One whose result happens to be right does not count; None if the story has no wrong solution.
    """
    right = solution(story)
    for _ in range(20):
        flipped = rng.randrange(1, 2 ** len(story.steps))  # which steps are misread: every non-empty subset alike
        chosen = tuple(
            rng.choice([o for o in OPERATIONS if o != operation]) if flipped >> index & 1 else operation
            for index, (operation, _) in enumerate(story.steps)
        )
        text = _written(story, chosen)
        if text is not None and text.split()[-1] != right.split()[-1]:
            return text
    return None


def draw_story(settings: GeneratedProblems, rng: random.Random) -> Story:
    """One story; redrawn until every intermediate result is a number that the tokenizer has, or a DataError."""
    for _ in range(MAX_DRAWS):
        start = rng.randint(*settings.start)
        value, steps = start, []
        for _ in range(rng.randint(*settings.steps)):
            operation: Operation = rng.choices(OPERATIONS, weights=(2, 2, 1))[0]
            operand = rng.choice(FACTORS) if operation == "*" else rng.randint(*settings.operands)
            result = apply(value, operation, operand)
            if result is None:
                break
            value = result
            steps.append((operation, operand))
        else:
            return _worded(start, tuple(steps), settings, rng)
    raise DataError(f"generated problems: no story of these ranges stays within 0 to {MAX_NUMBER}; {REMEDY}")


def _worded(
    start: int, steps: tuple[tuple[Operation, int], ...], settings: GeneratedProblems, rng: random.Random
) -> Story:
    family = rng.choice(tuple(STORIES)) if settings.phrasing == "any" else settings.phrasing
    phrases = STORIES[family]
    name, other = rng.sample(NAMES, 2)
    thing, unrelated = rng.sample(THINGS, 2)
    sentences = [rng.choice(phrases["start"]).format(name=name, n=start, thing=thing)]
    sentences += [rng.choice(phrases[operation]).format(name=name, n=operand) for operation, operand in steps]
    numbers = [start, *(operand for _, operand in steps)]
    for _ in range(rng.randint(*settings.distractors)):
        number = rng.randint(*settings.operands)
        sentence = DISTRACTOR.format(name=other, n=number, thing=unrelated)
        sentences.insert(rng.randint(1, len(sentences)), sentence)
        numbers.append(number)
    sentences.append(rng.choice(phrases["question"]).format(name=name, thing=thing))
    return Story(start=start, steps=steps, question=" ".join(sentences), numbers_shown=tuple(numbers))


def stories(settings: GeneratedProblems, role: Literal["train", "test"], seed: str) -> Iterator[Story]:
    """An endless stream of stories for a role; the same for the same settings and seed. DataError: there are none."""
    if max(settings.start[1], settings.operands[1]) > MAX_NUMBER:
        raise DataError(f"generated problems '{seed}': `start` and `operands` must not go above {MAX_NUMBER}")
    rng = random.Random(f"{role}/{seed}")  # a text seed does not depend on PYTHONHASHSEED
    misses = 0
    while misses < MAX_DRAWS:
        story = draw_story(settings, rng)
        misses += 1
        if allowed(story, role):
            misses = 0
            yield story
    raise DataError(f"generated problems '{seed}': these ranges hold no numbers of the {role} problems; {REMEDY}")


def generate_problems(settings: GeneratedProblems, role: Role, seed: str) -> list[Problem]:
    """`settings.problems` distinct problems, for the warm-up with solutions; DataError if the ranges hold too few."""
    problems: dict[str, Problem] = {}
    solved = role == "warmup"
    numbers: Literal["train", "test"] = "test" if role == "test" else "train"
    for attempt, story in enumerate(stories(settings, numbers, seed)):
        if len(problems) == settings.problems:
            break
        if attempt > 20 * settings.problems + 1000:
            raise DataError(
                f"generated problems '{seed}': found only {len(problems)} distinct ones of {settings.problems}; "
                f"{REMEDY}, or lower `problems`"
            )
        text = solution(story)
        answer = text.split()[-1]
        problem = Problem(f"{seed}-{len(problems)}", story.question, answer, text if solved else None)
        problems.setdefault(story.question, problem)
    return list(problems.values())


def solved_examples(settings: GeneratedProblems, wrong_fraction: float, seed: str) -> Iterator[tuple[str, str]]:
    """Endless (question, solution) pairs for pre-training, of which `wrong_fraction` are wrong."""
    rng = random.Random(f"solutions/{seed}")
    for story in stories(settings, "train", seed):
        text = wrong_solution(story, rng) if rng.random() < wrong_fraction else solution(story)
        if text is not None:
            yield story.question, text


def vocabulary() -> list[str]:
    """Every word of every story and solution, in a fixed order; each is one token."""
    phrases = [phrase for family in STORIES.values() for options in family.values() for phrase in options]
    words = {word for phrase in (*phrases, DISTRACTOR) for word in phrase.split() if "{" not in word}
    return [*sorted(words), *NAMES, *THINGS, *OPERATIONS, "->", "####", *map(str, range(MAX_NUMBER + 1))]
