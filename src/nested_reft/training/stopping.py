"""A graceful stop: at SIGTERM (a cluster's pre-emption) or SIGINT (Ctrl-C) the current step is finished and saved."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from nested_reft.runtime.errors import UserError


class StoppedError(UserError, RuntimeError):
    """The run was asked to stop and saved what it had; running it again continues from there."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: not a failure, try again


@dataclass
class StopRequest:
    """Whether a signal asked the run to stop, and its name."""

    signal: str | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Take note of the first SIGTERM or SIGINT; a second one ends the process at once, as it would without this."""
    request = StopRequest()
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        request.signal = signal.Signals(number).name
        restore()

    for number in signals:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
