"""The grader: conventions, near misses, adversarial text, time limits, and agreement with public graders' labels."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nested_reft.grading import formulas, grader
from nested_reft.grading.grader import grade


@given(st.text(max_size=200), st.text(max_size=60))
@settings(deadline=None, max_examples=150)
def test_any_text_gets_a_verdict(response: str, gold: str) -> None:
    assert grade(response, gold) in (True, False)


ALPHABET = st.sampled_from([*r"0123456789.,-+/^_=()[]{}$%x", r"\boxed{", "####", r"\frac{", r"\pm", "answer is ", " "])


@given(st.lists(ALPHABET, max_size=25).map("".join), st.lists(ALPHABET, max_size=12).map("".join))
@settings(deadline=None, max_examples=150)
def test_any_answer_like_text_gets_a_verdict(response: str, gold: str) -> None:
    assert grade(response, gold) in (True, False)


@given(st.integers(), st.integers())
def test_integers(n: int, other: int) -> None:
    assert grade(f"2 + 3 = 5, so\n#### {n}", str(n)) is True
    assert grade(rf"Thus $x$ is \boxed{{{n:,}}}.", str(n)) is True
    assert grade(f"The answer is {n}.", f"{n}.0") is True
    assert grade(f"#### {other}", str(n)) is (n == other)


@given(st.integers(-999, 999), st.integers(1, 999), st.integers(1, 9))
def test_fractions(top: int, bottom: int, factor: int) -> None:
    assert grade(rf"\boxed{{\frac{{{top * factor}}}{{{bottom * factor}}}}}", f"{top}/{bottom}") is True
    assert grade(rf"\boxed{{{top}/{bottom}}}", f"{top + 1}/{bottom}") is False


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=5), st.randoms())
def test_lists_have_no_order_and_tuples_do(values: list[int], random: object) -> None:
    shuffled = sorted(values, key=lambda _: random.random())  # type: ignore[attr-defined]
    text, other = ", ".join(map(str, values)), ", ".join(map(str, shuffled))
    assert grade(rf"\boxed{{{other}}}", text) is True
    assert grade(rf"\boxed{{({other})}}", f"({text})") is (values == shuffled)


# --- bounds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "the answer is $ " + ". " * 9000 + "$", "\\[" * 10_000, "$" * 20_000, "\\boxed{" * 3000,
        "\\boxed{" * 2000 + "5" + "}" * 2000, r"\boxed{" + "(" * 900 + "7" + ")" * 900 + "}", "answer " * 3000,
        r"\boxed{" + "1," * 900 + "1}", "#### " + "9" * 4400, r"\boxed{5" + " " * 1900 + "x}", "\x00\ud800",
        "1" * 20_000, r"\boxed{1.1" + ".11" * 600 + "x}", '{"answer": {a:' * 1400, '{"answer": ["' + "'" * 19_000,
        "{:" + " " * 19_000 + "x}", "<answer>" * 2400, "answer is " + "1 and " * 900, "answer" + " is" * 5000,
        r"\boxed{5" + r" \text{ a}" * 190 + "x}", r"\boxed{" + "√" * 1900 + "}", "5 (" + "since " * 3000,
        r"\boxed{" + "one hundred " * 160 + "}", r"\boxed{" + r"\\" * 900 + "}", "5 (" * 6000, "A and " * 3000,
        r"\boxed{" + "ab" * 40 + " = 5}", r"\boxed{" + "a/bcd" * 40 + " = 5}", "5 " + "é/ab " * 50 + "=",
    ],
)  # fmt: skip
def test_long_and_broken_text_is_quick(text: str) -> None:
    """In processor time, which other work on the machine does not use up; the worker has a limit of its own."""
    start = time.process_time()
    assert not any(grade(text, gold) for gold in ("3", r"\frac{x+1}{2}", "C", "(1, 2)"))
    assert time.process_time() - start < 4


def test_a_time_out_is_counted_and_logged_and_the_next_answer_is_graded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert grade(r"\boxed{x+x}", "2x")  # the worker's start is not the answer's time
    monkeypatch.setattr(formulas, "TIME_LIMIT", 0.5)  # of processor time; the clock has no part in it
    monkeypatch.setattr(formulas, "HANG_LIMIT", 600.0)
    before, process = grader.timeouts(), formulas._worker._process
    assert grade(r"\boxed{9^{9^{9^{9}}}}", "81") is False
    assert grader.timeouts() == before + 1
    assert formulas._worker._process is process, "its child reached the limit of processor time, not of hanging"
    assert "cut off" in caplog.text
    monkeypatch.undo()
    assert grade(r"\boxed{y+y}", "2y")


def test_a_worker_that_is_ready_has_nothing_left_to_import() -> None:
    """The first question would pay for it with its own time, and a right answer could be cut off."""
    questions = [
        ("get", r"\frac{8675309}{100}", 2), (r"\{1, 2\}", r"\{2, 1, x\}", None), (r"(-\infty, 2)", "x < 2", None),
        (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", r"\begin{pmatrix} 1 & x \end{pmatrix}", None),
        ("a = b", "b = a", None), (r"\int_0^1 x^2 dx", r"\frac{1}{3}", None),
        (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}", None), (r"\sin(2x)", r"2 \sin x \cos x", None),
        (r"\log_2 8", "x", None), ("3i + 2", "2 + 3i", None),
    ]  # fmt: skip
    code = (
        "import sys; from nested_reft.grading import worker as w; w.warm_up(); before = {*sys.modules}\n"
        f"for question in {questions!r}: w.equal(*question)\n"
        "print({*sys.modules} - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_off_the_main_thread_and_in_many_threads() -> None:
    verdicts: dict[int, bool] = {}

    def work(n: int) -> None:
        verdicts[n] = grade(rf"\boxed{{{n}a + {n}a}}", f"{2 * n}a") and not grade(rf"\boxed{{{n}b + b}}", f"{n}b")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert verdicts == dict.fromkeys(range(2, 10), True)


@pytest.mark.parametrize("code", ["__import__('os').system('touch {0}')", "open('{0}','w')", "().__class__"])
def test_model_text_is_not_run(tmp_path: Path, code: str) -> None:
    mark = tmp_path / "ran"
    for text in (code, rf"\boxed{{{code}}}", f"#### {code}", f"The answer is ${code}$ + 1", rf"\text{{{code}}} + x"):
        assert grade(text.replace("{0}", str(mark)), "x + 1") is False
    assert not mark.exists()


def test_import_is_light_and_leaves_sympy_out() -> None:
    code = "import sys, nested_reft.grading.grader as g; g.grade('#### 5', '6'); print({'sympy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_worker_that_cannot_start_is_not_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formulas, "_worker", formulas._Worker())
    monkeypatch.setattr(formulas.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="worker does not start"):
        grade(r"\boxed{z+z}", "2z")


# --- labelled pairs ---------------------------------------------------------------------------------------------


def test_agreement_with_public_graders(data_mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page lists every pair on which the grader and the label differ, and no other."""
    monkeypatch.setattr(formulas, "TIME_LIMIT", 5 * formulas.TIME_LIMIT)  # a slow machine has the same list
    lines = (data_mirror / "grading" / "cases.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [case for line in lines if (case := json.loads(line))["kind"] in ("answer", "response")]
    verdicts = {(case["gold"], case["prediction"], case["equivalent"]): grade(case["prediction"], case["gold"])
                for case in cases}  # fmt: skip
    differing = {(gold, text, verdict) for (gold, text, label), verdict in verdicts.items() if verdict != label}
    assert len(cases) == 292
    assert len(differing) <= 0.05 * len(cases)
    page = (Path(__file__).parents[2] / "docs/grading.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `` (.*?) `` \| `` (.*?) `` \| (yes|no) \|", page, re.MULTILINE)
    listed = {(json.loads(f'"{gold}"'), json.loads(f'"{text}"'), verdict == "yes") for gold, text, verdict in rows}
    assert differing == listed


@pytest.mark.parametrize("name", ["math-ai/minervamath", "math-ai/olympiadbench", "HuggingFaceH4/MATH-500"])
def test_gold_answers_equal_themselves_and_not_their_neighbours(data_mirror: Path, name: str) -> None:
    rows = (data_mirror / name / "test.jsonl").read_text(encoding="utf-8").splitlines()
    golds = [str(json.loads(line)["answer"]) for line in rows]
    rejected = [gold for gold in golds if not grade(rf"\boxed{{{gold}}}", gold)]
    assert not rejected
    numbers = list(dict.fromkeys(gold for gold in golds if gold.isdigit()))
    assert not [pair for pair in itertools.pairwise(numbers) if grade(rf"\boxed{{{pair[0]}}}", pair[1])]
