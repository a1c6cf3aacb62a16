"""Calculations, and texts that are no formula, are decided without the worker, and as it decides."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nested_reft.grading import formulas
from nested_reft.grading.compare import NO_FORMULA
from nested_reft.grading.exact import Number, calculation
from nested_reft.grading.grader import grade
from nested_reft.grading.spelling import quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16 - 12", 4),
        ("( 16 - 12 )", 4),
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("10 - 2 - 3", 5),
        ("24 / 2 / 3", 4),
        ("10 / 4", Fraction(5, 2)),
        ("-3 - -4", 1),
        ("-(3 - 5) * 2", 4),
        (".5 + 1.25", Fraction(7, 4)),
        (r"2 \times 3 \div 4", Fraction(3, 2)),
        ("2 × 3 ÷ 4", Fraction(3, 2)),
        (r"2\cdot3", 6),
    ],
)
def test_value_of_a_calculation(text: str, value: Fraction) -> None:
    assert calculation(text) == Number(Fraction(value))


@pytest.mark.parametrize(
    "text",
    ["", "5 / 0", "3 +", "* 3", "(3", "3)", "()", "3 4", "2 (3)", "2^3", "x + 1", "3 = 3", "1,000 + 1", "5. + 1"],
)
def test_everything_else_is_left_to_others(text: str) -> None:
    assert calculation(text) is None


def test_deep_nesting_is_no_calculation_and_no_error() -> None:
    assert calculation("(" * 100_000 + "1" + ")" * 100_000) is None
    assert calculation("(" * 49 + "1" + ")" * 49) == Number(Fraction(1))


NUMBERS = st.one_of(st.integers(0, 99).map(str), st.decimals(0, 9, places=2).map(str))
CALCULATIONS = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" + ", " - ", " * ", " / ", "-", r" \times "]), inner).map("".join),
        inner.map("({})".format),
        inner.map("-{}".format),
    ),
    max_leaves=6,
)


@given(CALCULATIONS, st.integers(-9, 9))
@example("2 - 3 / 4 * 2", 0)
def test_the_worker_finds_the_same_value(text: str, off: int) -> None:
    number = calculation(text)
    if number is not None:
        value = number.value + off
        written = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
        assert formulas.equivalent(text, written)[0] == (off == 0)


PIECES = st.sampled_from(
    ["7", "0", "12", "them", "of", "x", "i", "e", "sin", "->", "-", "+", "=", "<", r"\times", "(", ".", "?"]
)


@given(st.lists(PIECES, min_size=1, max_size=5).map(" ".join), st.integers(1, 12))
@example("15 - 4 ->", 11)
@example("81 40", 40)
def test_what_is_no_formula_is_not_for_the_worker_either(text: str, value: int) -> None:
    if quantity(text) is None and NO_FORMULA.fullmatch(text):
        assert not formulas.equivalent(text, rf"\frac{{{value}}}{{1}}")[0]


def test_answers_of_the_default_experiment_start_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right, wrong and cut off: starting the worker takes longer than grading all answers of a job."""

    def refuse(*_: object) -> tuple[bool, float]:
        raise AssertionError("the worker was asked")

    monkeypatch.setattr(formulas, "equivalent", refuse)
    endings = {
        "15 + 5 -> 20 #### 20": True,
        "15 + 5 -> 20 #### 21": False,
        "15 + 5 -> 20 * 2 ->": False,
        "15 + 5 -> 20 -": False,
        "13 + 4 -> 17 -> 16 -> 20": True,
        "#### ( 15 + 5 )": True,
        "#### ( 15 - 5 )": False,
        "81 40": False,
        "them": False,
        "a": False,
        ". 20": True,
        "how many shells now ?": False,
        "lie 21": False,
    }
    assert {text: grade(text, "20") for text in endings} == endings
