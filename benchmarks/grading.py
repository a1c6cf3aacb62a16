"""The grader: answers per second on one core, including its worker process but not the start of it.

    python benchmarks/grading.py [--quick]

As in a rollout, each problem has eight completions, of a few hundred characters with the final answer in a box: half
of them right, one of these in another spelling, and the wrong ones repeat three answers. Kinds of answers: whole
numbers; fractions and decimals; tuples; formulas, which need algebra. `mixed` has the shares of MIXED, an assumption.

Keys: `answers_per_s` of each kind and of `mixed`, medians over rounds with new problems; `wanted_per_s`, the goal for
`mixed`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from common import Spread, fail, parse_options, print_result

from nested_reft.grading.grader import grade

WANTED_PER_S = 2000
GROUP = 8
THOUGHT = "First we look at what is given, write it as an equation, and bring the unknown to one side. "
MIXED = {"whole numbers": 0.75, "fractions and decimals": 0.15, "tuples and lists": 0.05, "formulas": 0.05}

# Of a problem: the right answer, another spelling of it, and three wrong ones.
Answers = tuple[str, str, list[str]]


def whole_number(rng: random.Random) -> Answers:
    """Such as 1234, also 1,234."""
    right = rng.randint(1000, 99999)
    return str(right), f"{right:,}", [str(right + rng.randint(1, 50)) for _ in range(3)]


def fraction(rng: random.Random) -> Answers:
    """Such as 7/16, also 0.4375."""
    top, bottom = rng.randint(1, 99), rng.choice([8, 16, 32, 64])
    wrong = [rf"\frac{{{top + n}}}{{{bottom}}}" for n in (1, 2, 3)]
    return rf"\frac{{{top}}}{{{bottom}}}", str(top / bottom), wrong


def tuple_of_numbers(rng: random.Random) -> Answers:
    """Such as (3, 7), also (3,7.0)."""
    a, b = rng.randint(0, 99), rng.randint(0, 99)
    return f"({a}, {b})", f"({a},{b}.0)", [f"({a}, {b + n})" for n in (1, 2, 3)]


def formula(rng: random.Random) -> Answers:
    """Such as x^2 + 3x, also x(x + 3)."""
    a, b = rng.randint(2, 99), rng.randint(2, 99)
    return f"{a}x^2 + {b}x", f"x({b} + {a}x)", [f"{a}x^2 - {b + n}x" for n in (0, 1, 2)]


KINDS: dict[str, Callable[[random.Random], Answers]] = {
    "whole numbers": whole_number,
    "fractions and decimals": fraction,
    "tuples and lists": tuple_of_numbers,
    "formulas": formula,
}


def batch(kinds: list[str], rng: random.Random) -> list[tuple[str, str, bool]]:
    """Response, gold answer and whether it is right, of GROUP completions for a problem of each kind."""
    cases = []
    for kind in kinds:
        right, other, wrong = KINDS[kind](rng)
        for answer in [right, right, right, other, *wrong, wrong[0]]:
            text = THOUGHT * rng.randint(2, 5) + rf"So the answer is $\boxed{{{answer}}}$."
            cases.append((text, right, answer in (right, other)))
    rng.shuffle(cases)
    return cases


def answers_per_s(cases: list[tuple[str, str, bool]]) -> float:
    """Graded answers per wall-clock second; ends the program if a grade is wrong."""
    started = time.perf_counter()
    grades = [grade(text, gold) for text, gold, _ in cases]
    seconds = time.perf_counter() - started
    for (text, gold, right), graded in zip(cases, grades, strict=True):
        if graded is not right:
            fail(f"the grader says {graded} of {text[-60:]!r}, but the gold answer is {gold!r}")
    return len(cases) / seconds


def main() -> None:
    """Measure each kind and the mixture, and print the JSON line."""
    options = parse_options(__doc__)
    problems, rounds = (5, 2) if options.quick else (100, 7)
    rng = random.Random(0)
    result: dict[str, Any] = {"answers_per_s": {}, "answers_per_s_spread": {}, "wanted_per_s": WANTED_PER_S}
    grade(r"\boxed{x + 1}", "1 + x")  # starts the worker
    for name in (*KINDS, "mixed"):
        speeds = []
        for _ in range(rounds):
            kinds = rng.choices(list(MIXED), list(MIXED.values()), k=problems) if name == "mixed" else [name] * problems
            speeds.append(answers_per_s(batch(kinds, rng)))
        spread = Spread.of(speeds)
        result["answers_per_s"][name], result["answers_per_s_spread"][name] = spread.median, spread
        print(f"{name}: {spread} answers/s, {rounds} rounds of {problems * GROUP}", flush=True)
    print_result("grading", options, result)


if __name__ == "__main__":
    main()
