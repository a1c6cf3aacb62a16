"""Adversarial answers: of 100,000 none may crash the grader, hang it, fill memory, be run, or count as right.

The gold answer is a number that no adversarial text is made to name, so that the only right grade is wrong.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nested_reft.grading import formulas, grader
from nested_reft.grading.grader import grade

GOLD = "86753.09"
PARTS, ANSWERS = 10, 10_000
# Of this process's own time for one answer; in the worker, a comparison has formulas.TIME_LIMIT.
SECONDS = 5.0  # of processor time, on an old processor too: work that grows exponentially would take hours
MEMORY = 300 * 2**20  # bytes that this process may grow by; the worker's bound is grading_worker.MEMORY_BYTES

CANARY = "canary.txt"
CODE = [
    f"__import__('os').system('touch {CANARY}')", f"open('{CANARY}', 'w')", "exec('import os')", "eval('1+1')",
    "().__class__.__bases__[0].__subclasses__()", "lambda: 0", f"\\write18{{touch {CANARY}}}", f"$(touch {CANARY})",
    f"`touch {CANARY}`", "{{7*7}}", "'; DROP TABLE answers; --", f"import os; os.mknod('{CANARY}')", "%n%n%n%s",
]  # fmt: skip
BOMBS = [
    r"\def\a{\a\a}\a", r"\newcommand{\x}{\x\x}\x", r"\loop\iftrue\repeat", r"\input{/dev/zero}", r"\csname x\endcsname",
    "9" * 5000, "9!" * 200, "((((9!)!)!)!)!", "10^{10^{10^{10}}}", "9^9^9^9^9^9", "2**2**2**2**2**2", "1e999999999",
    r"\frac{" * 300, r"\sqrt{" * 300, "(" * 3000, "[" * 3000, "{" * 3000, "}" * 3000, "$" * 3001, "\\" * 3001,
    r"\boxed{" * 500, r"\left(" * 300, r"\begin{pmatrix}" * 100, r"\int_0^1 " * 50 + "x dx", r"\sum_{k=1}^{10^9} k^k",
    r"\prod_{k=1}^{\infty} k", r"\lim_{x\to 0} \frac{\sin x}{x}" * 20, "x^{" * 200 + "2" + "}" * 200, "1/0", "0^0",
    r"\binom{10^9}{5\cdot 10^8}", r"\Gamma(10^{10})", "factorial(factorial(100))", "1," * 3000, "a=" * 500,
    r"\pm" * 300,
    r"\cup" * 300, "- " * 2000, "!" * 2000, "%" * 2000, r"\%" * 500, "nan", "inf", "-inf", "NaN!", "0x" + "f" * 1000,
]  # fmt: skip
ODD = [
    "\0", "\x07", "\x1b[2J", "\u202e", "\u200b" * 50, "\ufeff", "\ud7ff", "\U0010ffff", "٣٤٥", "７８９", "Ⅷ", "½", "²³",
    "𝟗𝟗", "\r\n", "\t\v\f", "\u2028", "−5", "∞", "é" * 500, "ﷺ" * 300, "🧨" * 100, "a\u0301" * 300, "\\u0000", "&#x00;",
]  # fmt: skip
FRAMES = [
    "{}", "\\boxed{{{}}}", "#### {}", "The answer is {}.", "$${}$$", "\\[{}\\]", "<think>{}</think>", "\\boxed{{{}",
    "Final Answer: {}", "```python\n{}\n```", "({})", "[{}, {}]", "\\frac{{{}}}{{{}}}", "{}^{{{}}}", "\\text{{{}}}",
    "({}) = ({})", "\\sqrt{{{}}}", "{}, {}, {}", "#### \\boxed{{{}}} #### {}", "\\left\\{{{}\\right\\}}",
]  # fmt: skip
WORDS = "so we get the answer is apples and then = 7 cm ** $ \\[ 12 x"


def adversarial(rng: random.Random) -> str:
    """One response: fragments in frames in frames; now and then damaged, or a megabyte long."""
    pick: list[Callable[[], str]] = [
        *[lambda: " ".join(rng.choices(WORDS.split(), k=rng.randint(1, 30)))] * 8,
        *[lambda: str(rng.randint(-(10**6), 10**4))] * 4,
        *[lambda: "".join(chr(rng.choice([rng.randint(1, 0xD7FF), rng.randint(32, 126)])) for _ in range(20))] * 3,
        *[lambda: rng.choice(ODD) * rng.randint(1, 4)] * 3,
        *[lambda: "".join(rng.choices("0123456789+-*/^!(){}[]\\$,.=<>|_ xeπ%", k=rng.randint(1, 60)))] * 2,
        *[lambda: rng.choice(CODE)] * 2,
        lambda: rng.choice(BOMBS),
    ]
    text = rng.choice(pick)()
    for _ in range(rng.randint(1, 4)):
        frame = rng.choice(FRAMES)
        text = frame.format(*(rng.choice([text, rng.choice(pick)()]) for _ in range(frame.count("{}"))))
    damage = rng.random()
    if damage < 0.2 and text:
        cut = rng.randrange(len(text))
        text = text[:cut] if damage < 0.1 else text[cut:]
    elif damage > 0.999:
        text = text * (1 + 10**6 // max(len(text), 1))
    return text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where code that ran would leave its trace."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_ten_thousand_adversarial_answers(folder: Path, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fifth of the time limit, which a hundredth of them would otherwise use up to the end.

    How many are cut off at it is not counted here: it depends on how fast and how busy the machine is.
    """
    monkeypatch.setattr(formulas, "TIME_LIMIT", formulas.TIME_LIMIT / 5)
    monkeypatch.setattr(formulas, "HANG_LIMIT", 600.0)
    rng = random.Random(part)
    grade(r"\boxed{x + 1}", "1 + x")  # the worker's start is not the first answer's fault
    before, slowest = resident_bytes(), (0.0, "")
    for _ in range(ANSWERS):
        text = adversarial(rng)
        started = time.process_time()
        right = grade(text, GOLD)
        slowest = max(slowest, (time.process_time() - started, text[:300]))
        assert right is False, f"accepted: {text[:300]!r}"
    assert slowest[0] < SECONDS, f"{slowest[0]:.2f} s: {slowest[1]!r}"
    assert resident_bytes() - before < MEMORY
    assert list(folder.iterdir()) == [], "code was run"
    assert grade(r"\boxed{86753.09}", GOLD), "the grader still works"


@given(st.text(max_size=300), st.sampled_from(FRAMES))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_text_at_all_makes_the_grader_raise(text: str, frame: str) -> None:
    response = frame.format(*[text] * frame.count("{}"))
    assert isinstance(grade(response, GOLD), bool)
    assert isinstance(grade(GOLD, response), bool)
    assert isinstance(grade(response, response), bool)


@pytest.mark.parametrize("bomb", BOMBS)
def test_every_bomb_by_itself_is_wrong_in_time(folder: Path, bomb: str) -> None:
    for text in (bomb, rf"\boxed{{{bomb}}}", f"#### {bomb}"):
        started = time.process_time()
        assert grade(text, GOLD) is False
        assert time.process_time() - started < SECONDS
    assert list(folder.iterdir()) == []


def test_megabytes_of_text_are_read_in_time() -> None:
    for piece in (r"\boxed{", "x + ", "#### ", "The answer is ", "$", "9", "(", "\n", "1,"):
        text = piece * (3 * 10**6 // len(piece))
        started = time.process_time()
        assert grade(text, GOLD) is False
        assert time.process_time() - started < SECONDS, piece


def test_a_worker_that_waits_for_a_busy_machine_has_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formulas, "HANG_LIMIT", 600.0)
    assert grade(r"\boxed{\sqrt{72}}", r"6\sqrt{2}")
    process = formulas._worker._process
    assert process is not None
    os.killpg(process.pid, signal.SIGSTOP)
    threading.Timer(formulas.TIME_LIMIT + 0.5, os.killpg, (process.pid, signal.SIGCONT)).start()
    assert grade(r"\boxed{\sqrt{98}}", r"7\sqrt{2}")
    assert formulas._worker._process is process


def test_a_worker_that_dies_or_hangs_is_replaced_and_its_answer_is_graded(monkeypatch: pytest.MonkeyPatch) -> None:
    formulas.equivalent.cache_clear()
    before, read = grader.timeouts(), formulas._line
    monkeypatch.setattr(formulas, "HANG_LIMIT", 7654.0)
    stopped: list[IO[str] | None] = []

    def line(stream: IO[str] | None, seconds: float) -> str | None:
        """A worker that was stopped says nothing until the limit, without waiting for it."""
        return None if seconds == formulas.HANG_LIMIT and stream in stopped else read(stream, seconds)

    monkeypatch.setattr(formulas, "_line", line)
    for end, a in ((signal.SIGSTOP, 2), (signal.SIGKILL, 3)):
        assert grade(rf"\boxed{{{a}\sqrt{{8}}}}", rf"{2 * a}\sqrt{{2}}")
        process = formulas._worker._process
        assert process is not None
        os.killpg(process.pid, end)
        if end is signal.SIGSTOP:
            stopped.append(process.stdout)
        assert grade(rf"\boxed{{{a}\sqrt{{18}}}}", rf"{3 * a}\sqrt{{2}}")
        assert process.poll() is not None
        assert formulas._worker._process is not process
    assert grader.timeouts() == before


def test_an_answer_that_two_workers_hang_at_counts_as_wrong_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    formulas.equivalent.cache_clear()
    read, hanging = formulas._line, []
    monkeypatch.setattr(formulas, "HANG_LIMIT", 7654.0)

    def line(stream: IO[str] | None, seconds: float) -> str | None:
        if seconds != formulas.HANG_LIMIT:  # the worker's start
            return read(stream, seconds)
        hanging.append(formulas._worker._process)
        return None

    with monkeypatch.context() as patch:
        patch.setattr(formulas, "_line", line)
        before = grader.timeouts()
        assert not grade(r"\boxed{\sqrt{32}}", r"4\sqrt{2}")
        assert grader.timeouts() == before + 1
    assert len({id(process) for process in hanging}) == 2
    assert grade(r"\boxed{\sqrt{50}}", r"5\sqrt{2}"), "the next answer has a new worker"
    formulas.equivalent.cache_clear()  # no other test shall read that verdict


def test_no_worker_outlives_a_process_that_was_killed() -> None:
    code = r"""
import os, signal
from nested_reft.grading.grader import grade
print(grade(r"\boxed{x + x}", "2x"), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    # The worker has inherited stderr, whose end is waited for.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=600)
    assert done.stdout == b"True\n"
    assert done.returncode == -signal.SIGKILL
