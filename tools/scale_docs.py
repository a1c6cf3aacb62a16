"""Writes the plan of the paper's experiment into docs/scale.md: the output of `nested-reft plan`, between two marks."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path

from nested_reft.cli import main

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs/scale.md"
BEGIN, END = "<!-- plan: written by `make config-docs` -->\n", "<!-- end of plan -->\n"


def plan() -> str:
    """The output of the command before anything has been fetched."""
    output, before = io.StringIO(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(output):
        (Path(folder) / "config").symlink_to(ROOT / "config")
        os.chdir(folder)
        try:
            main(["plan", "--config", "config/paper.yaml"])
        finally:
            os.chdir(before)
    return output.getvalue()


def render(page: str) -> str:
    """The page with the current plan; ValueError if it has no place for it."""
    start, _, rest = page.partition(BEGIN)
    _, mark, end = rest.partition(END)
    if not mark:
        raise ValueError(f"{TARGET.name}: has no place for the plan, between {BEGIN.strip()} and {END.strip()}")
    return f"{start}{BEGIN}\n{plan()}\n{END}{end}"


if __name__ == "__main__":
    TARGET.write_text(render(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
