"""Progress lines of a job, for its log (standard error). The terminal has the lines of Snakemake's logger."""

from __future__ import annotations

from nested_reft.runtime.lines import write_line


class Progress:
    """Progress of one job, whose name is at the beginning of each line."""

    def __init__(self, label: str) -> None:
        self._label = label

    def log(self, text: str) -> None:
        """Write a line."""
        write_line(f"{self._label}  {text}")


def clock(seconds: float) -> str:
    """Minutes and seconds, such as 1:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
