"""What the worker says of two formulas: exact where math-verify is not, and right about polynomials."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Expr, Integer, Poly, latex, symbols  # type: ignore[import-untyped]

from nested_reft.grading.worker import certainly_different, equal, read

X, Y = symbols("x y", real=True)
Terms = dict[tuple[int, int], int]
polynomials = st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.integers(-3, 3), max_size=4)


@pytest.mark.parametrize(
    ("found", "expected", "verdict", "certain"),
    [
        ("x(x + 3)", "x^2 + 3x", True, False),
        (r"\frac{n(n+1)}{2}", "n^2/2 + n/2", True, False),
        ("x^{-1}", r"\frac{1}{x}", True, False),
        ("x", "y", False, True),
        ("x^2 - 3x", "x^2 + 3x", False, True),
        ("x + 0.333", r"x + \frac{1}{3}", False, True),
        (r"\frac{x^2 - 1}{x - 1}", "x + 1", True, False),
        (r"\sqrt{2} x", r"x \sqrt{2}", True, False),
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}", False, True),
        (r"\int_0^1 x dx", r"\frac{1}{2}", True, False),
        ("x^{65}", "x", False, True),
        ("i + 1", "1", False, True),
    ],
)
def test_pairs_of_formulas(found: str, expected: str, verdict: bool, certain: bool) -> None:
    assert equal(found, expected, None) is verdict
    assert certainly_different(read(found), read(expected)) is certain


def expression(terms: Terms) -> Expr:
    return sum((number * X**a * Y**b for (a, b), number in terms.items()), Integer(0))


@settings(max_examples=60, deadline=None)
@given(polynomials, polynomials, polynomials)
def test_it_is_right_about_products_and_sums_of_polynomials(a: Terms, b: Terms, c: Terms) -> None:
    left, middle, right = expression(a), expression(b), expression(c)
    assert equal(latex(left * (middle + right)), latex(left * middle + left * right), None)
    same = Poly(left * middle - right, X, Y).is_zero
    assert equal(latex(left * middle), latex(right), None) is same
