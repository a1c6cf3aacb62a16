"""Equality of two formulas by math-verify, in a worker process that is killed when it takes too long.

math-verify's own time limit is an alarm signal, which works on the main thread only and cannot stop a computation
inside C code; killing a process can. The limit is on processor time, which the kernel enforces, so that a busy machine
grades like an idle one. The worker starts at the first question, answers one line with one line, serves every thread,
and is replaced if it dies or hangs. It imports sympy; this module does not.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

# Seconds of processor time for one question. Ordinary answers take milliseconds, and the worker has warmed up when it
# says it is ready.
TIME_LIMIT = 1.0
HANG_LIMIT = 20.0  # wall-clock seconds, for a worker that hangs without computing
START_LIMIT = 120.0  # for importing sympy on a busy machine


class Verdict(NamedTuple):
    """Whether two formulas are equal, None if the worker was cut off, and the seconds of processor time it took."""

    equal: bool | None
    seconds: float


class _Worker:
    """The process, and the lock that lets one thread at a time use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._ready = False

    def ask(self, found: str, expected: str, places: int | None) -> Verdict:
        with self._lock:
            # A worker that died between two questions (killed for memory, say) is replaced once.
            for _ in range(2):
                process = self._serving()
                question = json.dumps([found, expected, places, TIME_LIMIT]) + "\n"
                reply, late = self._exchange(process, question, HANG_LIMIT)
                if reply:
                    return Verdict(*json.loads(reply))
                self.stop()
                self._start()  # imports what it needs while other answers are compared
                if late:
                    break
            return Verdict(None, HANG_LIMIT)

    def _serving(self) -> subprocess.Popen[str]:
        """A process that answers: the running one, once it is ready."""
        process = self._process or self._start()
        if not self._ready:
            ready, _ = self._exchange(process, "", START_LIMIT)
            if not ready:
                self.stop()
                raise RuntimeError("the grading worker does not start (its error is above); is math-verify installed?")
            self._ready = True
        return process

    def _start(self) -> subprocess.Popen[str]:
        # Run by its path: it needs nothing of this package, and -P keeps the working directory off its path.
        self._ready = False
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="ascii",
            start_new_session=True,  # so that it ends with its child, and not by Ctrl-C
            env=os.environ | {"PYTHONHASHSEED": "0"},  # sympy's steps depend on it, and now and then a verdict
        )
        return self._process

    @staticmethod
    def _exchange(process: subprocess.Popen[str], line: str, seconds: float) -> tuple[str, bool]:
        """The reply, empty if there is none, and whether the time ran out."""
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            _kill(process)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(line)
            process.stdin.flush()
            return process.stdout.readline(), late.is_set()
        except OSError:
            return "", late.is_set()
        finally:
            timer.cancel()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _kill(process)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # unsent text in the buffer, and nobody to read it
                    pipe.close()


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill the worker and its child, which form one session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


_worker = _Worker()


def _forget_worker() -> None:
    global _worker
    _worker = _Worker()


# A forked child must not write into its parent's pipes.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_worker)
atexit.register(lambda: _worker.stop())


@lru_cache(maxsize=8192)  # the completions of one problem repeat a few answers
def equivalent(found: str, expected: str, places: int | None = None) -> Verdict:
    """Whether two formulas in LaTeX are equal; false if either cannot be read.

    With `places`, one of them is a decimal of that many places, which may be the other one rounded or truncated.
    """
    return _worker.ask(found, expected, places)
