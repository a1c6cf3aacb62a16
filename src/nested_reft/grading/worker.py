"""The process behind `formulas`: a script that reads lines of JSON, `[found, expected, places, limit]`, and answers
each with `[equal, seconds]`. A forked child answers; if it reaches the limit of processor time, the kernel ends it,
`equal` is null, and another child is forked, which has everything imported already.

Equality is math-verify's, but two expressions that differ at a point by more than the error of their values are
different, however close: math-verify takes a difference below its precision for none. Its reader for plain
expressions, which ends in Python's `eval`, is not used.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import resource
import signal
import sys
import time
from functools import lru_cache

import sympy as sp  # type: ignore[import-untyped]
from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify
from sympy.core.expr import UnevaluatedExpr  # type: ignore[import-untyped]

MEMORY_BYTES = 4 * 2**30  # 10^{10^{10}} must fail here, not take the machine's memory
DIGITS = 50  # of numeric comparison: formulas are exact (decimals become rationals), so all are meaningful
MOST_DIGITS = 1000  # tried until a difference is known to be none or not
# What an expression may consist of if its value at a point is to be taken.
ELEMENTARY = (sp.Add, sp.Mul, sp.Pow, sp.Rational, sp.NumberSymbol, type(sp.I), sp.Symbol, UnevaluatedExpr, sp.Function)
# Expressions that may be equal where both are defined differ at both points: the roots of x - 5 are real at one only.
POINTS = (sp.Rational(355, 113), sp.Rational(20021, 97))
# Boxes and units are handled before; the library's list of units has single letters, which are variables here.
SPELLING = NormalizationConfig(malformed_operators=True, nits=True, boxed="none")
SYMBOLS = ConversionConfig(lowercase_symbols=False)  # R and r are two variables
# One question of each kind, since the first of a kind is slow: modules are imported, tables filled.
WARM_UP = [
    ("x + 1", r"\frac{2 + 2x}{2}", None), ("a b", r"\frac{355}{113}", 4),
    (r"\{1, \sqrt{8}\}", r"\{x, 2\sqrt{2}\}", None), (r"(-\infty, 1)", "x < 2", None),
    (r"\begin{pmatrix} 1 \\ \frac{\pi}{4} \end{pmatrix}", r"\begin{pmatrix} x \\ 2 \end{pmatrix}", None),
    (r"\int_0^1 x dx", r"x^2 - 1", None), (r"\sin(x) + \sqrt{2}", r"\ln(x) + 3!", None),
]  # fmt: skip


@lru_cache(maxsize=1024)  # the completions of one problem share a gold answer
def read(text: str) -> sp.Basic | sp.MatrixBase:
    """The formula with exact decimals, a free `i` being the imaginary unit; raises if the grammar rejects it."""
    formula = latex2sympy(text, is_real=True, normalization_config=SPELLING, conversion_config=SYMBOLS)
    exact = {value: sp.Rational(str(value)) for value in formula.atoms(sp.Float)}
    formula = formula.xreplace(exact | {sp.Symbol("i", real=True): sp.I})
    if formula.has(sp.nan, sp.zoo):
        raise ValueError("undefined")
    return formula


def certainly_different(a: sp.Expr, b: sp.Expr) -> bool:
    """Whether two expressions differ at all POINTS by more than the error of their values; false if this is unknown."""
    difference = a - b
    if not all(isinstance(part, ELEMENTARY) for part in sp.preorder_traversal(difference)):
        return False
    symbols = sorted(difference.free_symbols, key=str)
    for start in POINTS if symbols else POINTS[:1]:
        point = {symbol: start + sp.Rational(2 * n, 113) for n, symbol in enumerate(symbols)}
        value = difference.evalf(subs=point, maxn=MOST_DIGITS)  # which does not write out 3^{10^{9}}
        parts = [value] if symbols else value.as_real_imag()
        # The precision of a difference of which no digit is known is 1.
        if not any(part.is_Float and part and part._prec > 1 for part in parts):
            return False
    return True


def equal(found: str, expected: str, places: int | None) -> bool:
    return same(read(found), read(expected), places)


def same(a: sp.Basic | sp.MatrixBase, b: sp.Basic | sp.MatrixBase, places: int | None) -> bool:
    if isinstance(a, sp.MatrixBase) and isinstance(b, sp.MatrixBase):
        return a.shape == b.shape and all(same(x, y, places) for x, y in zip(a, b, strict=True))
    expressions = isinstance(a, sp.Expr) and isinstance(b, sp.Expr)
    if expressions and any(side.has(sp.oo, -sp.oo) and side.doit().is_infinite for side in (a, b)):
        return bool(a.doit() == b.doit())  # the library takes the root of infinity for any number
    options = {"float_rounding": DIGITS, "numeric_precision": DIGITS, "allow_set_relation_comp": True}
    if not (expressions and certainly_different(a, b)) and verify(b, a, timeout_seconds=None, **options):
        return True
    if not expressions or places is None:
        return False
    difference = (a - b).evalf(DIGITS)
    return bool(difference.is_number and difference.is_real and abs(difference) * 10**places < 1)


def warm_up() -> None:
    for question in WARM_UP:
        equal(*question)


def serve() -> None:
    """Answer until the pipe is closed, since the parent has ended, or a child dies of anything but its limit."""
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what a library prints is not an answer
    logging.disable(logging.CRITICAL)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warm_up()
    print("ready", file=replies, flush=True)
    while (child := os.fork()) != 0:
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGPROF:
            return
        print(json.dumps([None, math.inf]), file=replies, flush=True)
    for line in sys.stdin:
        *question, limit = json.loads(line)
        started = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, limit)  # its signal ends the process, even inside C code
        try:
            verdict = equal(*question)
        except Exception:
            verdict = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps([verdict, time.process_time() - started]), file=replies, flush=True)


if __name__ == "__main__":
    serve()
