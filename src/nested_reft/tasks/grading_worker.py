"""The process behind `symbolic`: reads lines of JSON, `[found, expected, places]`, and answers each `true` or `false`.

Run as a script. Formulas go through the LaTeX grammar that math-verify uses; its reader for plain expressions,
which ends in Python's `eval`, is not used.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys

from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify
from sympy import Basic, Expr, Float, I, MatrixBase, Rational, Symbol, nan, oo, zoo  # type: ignore[import-untyped]

# 10^{10^{10}} must fail here, not take the machine's memory.
MEMORY_BYTES = 4 * 2**30
# Digits of numeric comparison: formulas are exact (decimals become rationals), so more than a float's are meaningful.
DIGITS = 50

# Boxes and units are dealt with before; the library's list of units has single letters, which are variables here.
SPELLING = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
)
# R and r are two variables.
SYMBOLS = ConversionConfig(lowercase_symbols=False)
IMAGINARY = Symbol("i", real=True)


def read(text: str) -> Basic | MatrixBase:
    """The formula, its decimals made exact and a free `i` the imaginary unit; raises where the grammar refuses it."""
    formula = latex2sympy(text, is_real=True, normalization_config=SPELLING, conversion_config=SYMBOLS)
    exact = {value: Rational(str(value)) for value in formula.atoms(Float)}
    if IMAGINARY in formula.free_symbols:
        exact[IMAGINARY] = I
    formula = formula.xreplace(exact) if exact else formula
    if formula.has(nan, zoo):
        raise ValueError("undefined")
    return formula


def equal(found: str, expected: str, places: int | None) -> bool:
    a, b = read(found), read(expected)
    if any(isinstance(side, Expr) and side.has(oo, -oo) and side.doit().is_infinite for side in (a, b)):
        return bool(a.doit() == b.doit())  # the library takes the root of infinity for any number
    if verify(
        b, a, float_rounding=DIGITS, numeric_precision=DIGITS, allow_set_relation_comp=True, timeout_seconds=None
    ):
        return True
    if places is None or not (isinstance(a, Expr) and isinstance(b, Expr)):
        return False
    difference = (a - b).evalf(DIGITS)
    return bool(difference.is_real) and bool(abs(difference) * 10**places < 1)


def serve() -> None:
    """Answer until the pipe is closed, which is when the parent has ended."""
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # a library that prints must not answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    equal("x + 1", r"\frac{2 + 2x}{2}", None)  # the first question is slow, whatever it is: sympy fills its tables
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        try:
            verdict = equal(*json.loads(line))
        except Exception:
            verdict = False
        print(json.dumps(verdict), file=replies, flush=True)


if __name__ == "__main__":
    serve()
