"""Lines that stay whole where several processes write to one terminal or log."""

from __future__ import annotations

import sys
from typing import TextIO


def write_line(text: str, *streams: TextIO) -> None:
    """Write a line to each stream (default: standard error), at once.

    If Python runs unbuffered, as torchrun starts it, `print` writes the end of the line by another call: the lines of
    two ranks then end up on one.
    """
    for stream in streams or (sys.stderr,):
        stream.write(f"{text}\n")
        stream.flush()
