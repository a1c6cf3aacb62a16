"""The worker's own way to compare rational functions: right if it answers, and silent if it cannot know."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Integer, Poly, symbols  # type: ignore[import-untyped]

from nested_reft.tasks.grading_worker import equal, rational_functions_equal, read

X, Y = symbols("x y", real=True)
Terms = dict[tuple[int, int], int]
polynomials = st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.integers(-3, 3), max_size=4)


@pytest.mark.parametrize(
    ("found", "expected", "verdict"),
    [
        ("x(x + 3)", "x^2 + 3x", True),
        (r"\frac{n(n+1)}{2}", "n^2/2 + n/2", True),
        ("x^{-1}", r"\frac{1}{x}", True),
        ("x", "y", False),
        ("x^2 - 3x", "x^2 + 3x", False),
        ("x + 0.333", r"x + \frac{1}{3}", False),
        (r"\frac{x^2 - 1}{x - 1}", "x + 1", None),  # equal, but not by expanding
        (r"\sqrt{2} x", r"x \sqrt{2}", None),
        (r"\int_0^1 x dx", "x^2", None),
        (r"\sin(x)", "x", None),
        ("x^{65}", "x", None),
        ("(x + 1)^{10^9}", "x", None),
        ("i + 1", "1", None),
    ],
)
def test_rational_functions(found: str, expected: str, verdict: bool | None) -> None:
    assert rational_functions_equal(read(found), read(expected)) is verdict
    if verdict is not None:
        assert equal(found, expected, None) is verdict


def expression(terms: Terms) -> object:
    return sum((number * X**a * Y**b for (a, b), number in terms.items()), Integer(0))


@settings(max_examples=60, deadline=None)
@given(polynomials, polynomials, polynomials)
def test_it_is_right_about_products_and_sums_of_polynomials(a: Terms, b: Terms, c: Terms) -> None:
    left, middle, right = expression(a), expression(b), expression(c)
    assert rational_functions_equal(left * (middle + right), left * middle + left * right) is True  # type: ignore[operator]
    same = Poly(left * middle - right, X, Y).is_zero  # type: ignore[operator]
    assert rational_functions_equal(left * middle, right) is same  # type: ignore[operator]
