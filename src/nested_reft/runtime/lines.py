"""Lines that stay whole where several processes write to one terminal or log."""

from __future__ import annotations

import sys
from typing import TextIO


def write_line(text: str, *streams: TextIO) -> None:
    """Write a line to each stream (default: standard error), at once.

    `print` writes the line's end by a call of its own if Python runs unbuffered, as torchrun starts it: two ranks' lines
    then stand on one.
    """
    for stream in streams or (sys.stderr,):
        stream.write(f"{text}\n")
        stream.flush()
