"""A graceful stop: at SIGTERM (a cluster's pre-emption) or SIGINT (Ctrl-C) the current step is finished and saved."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

from nested_reft.runtime.errors import UserError


class StoppedError(UserError, RuntimeError):
    """The run was asked to stop and saved what it had; running it again continues from there."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: not a failure, try again


@contextmanager
def stop_on_signals() -> Iterator[Event]:
    """An event that the first SIGTERM or SIGINT sets; a second one ends the process at once, as ever."""
    stop = Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(*_: object) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()
