"""Progress lines: all go to the log (standard error), and now and then one to the terminal (standard output)."""

from __future__ import annotations

import sys
import time

from nested_reft.runtime.lines import write_line


class Progress:
    """Progress of one job. It writes to the terminal at most every `interval` seconds, since many jobs share it."""

    def __init__(self, label: str, interval: float = 10.0) -> None:
        self._label = label
        self._interval = interval
        self._last = time.monotonic()

    def log(self, text: str) -> None:
        """A line for the log only."""
        write_line(f"{self._label}  {text}")

    def step(self, text: str) -> None:
        """A line for the log, and for the terminal if the last one there is `interval` seconds old."""
        self.log(text)
        if time.monotonic() - self._last >= self._interval:
            self._last = time.monotonic()
            write_line(f"{self._label}  {text}", sys.stdout)


def clock(seconds: float) -> str:
    """Minutes and seconds, such as 1:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
