"""Equality of two formulas by math-verify, in a worker process that is killed when it takes too long.

math-verify's own limit is an alarm signal, for the main thread only and not inside C code. Here the kernel enforces a
limit of processor time, so that a busy machine grades like an idle one. The worker, which imports sympy, starts at the
first question, answers one line with one line, serves every thread, and is replaced if it dies or hangs.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import signal
import sys
import threading
from functools import lru_cache
from multiprocessing.connection import wait
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO

TIME_LIMIT = 1.0  # seconds of processor time for one question; ordinary answers take milliseconds
HANG_LIMIT = 60.0  # wall-clock seconds, for a worker that hangs without computing
START_LIMIT = 120.0  # for importing sympy on a busy machine


class _Worker:
    """The process, and the lock that lets one thread at a time use it."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a forked child, which must not write into its parent's pipes."""
        self._lock = threading.Lock()
        self._process: Popen[str] | None = None

    def ask(self, *question: str | int | float | None) -> tuple[bool | None, float]:
        with self._lock:
            # A worker that died (of memory, say) or hangs is replaced once: that was not the question's fault.
            for _ in range(2):
                process = self._process or self._start()
                with contextlib.suppress(OSError):
                    print(json.dumps(question), file=process.stdin, flush=True)
                if reply := _line(process.stdout, HANG_LIMIT):
                    equal, seconds = json.loads(reply)
                    return equal, seconds
                self.stop()
            return None, math.inf

    def _start(self) -> Popen[str]:
        # With -P, which keeps the working directory off its path; in a session of its own, to end with its child.
        command = [sys.executable, "-P", str(Path(__file__).with_name("worker.py"))]
        seeded = os.environ | {"PYTHONHASHSEED": "0"}  # sympy's steps depend on it, and now and then a verdict
        self._process = Popen(command, stdin=PIPE, stdout=PIPE, encoding="ascii", start_new_session=True, env=seeded)
        if not _line(self._process.stdout, START_LIMIT):
            self.stop()
            raise RuntimeError("the grading worker does not start (its error is above); is math-verify installed?")
        return self._process

    def stop(self) -> None:
        """Kill the worker and its child, which form one session."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError), process:  # which closes its pipes and waits for its end
                os.killpg(process.pid, signal.SIGKILL)


def _line(stream: IO[str] | None, seconds: float) -> str | None:
    """The next line, empty at the stream's end, None if none comes in time."""
    assert stream is not None
    return stream.readline() if wait([stream.fileno()], seconds) else None


_worker = _Worker()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_worker.forget)
atexit.register(_worker.stop)


@lru_cache(maxsize=8192)  # the completions of one problem repeat a few answers
def equivalent(found: str, expected: str, places: int | None = None) -> tuple[bool | None, float]:
    """Whether two formulas in LaTeX can be read and are equal, None if the worker was cut off, and the seconds it took.

    With `places`, one of them is a decimal of that many places, which may be the other one rounded or truncated.
    """
    return _worker.ask(found, expected, places, TIME_LIMIT)
