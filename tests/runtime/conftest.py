"""A warm process that ends with its test."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from warm_harness import Warm, runs


@pytest.fixture
def make_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Warm]]:
    made: list[Warm] = []

    def make(job: Callable[[list[str]], int], packages: Sequence[str] = ()) -> Warm:
        made.append(Warm(tmp_path, job, monkeypatch, packages))
        return made[-1]

    yield make
    for process in made:
        if runs(process.number):
            os.kill(process.number, signal.SIGKILL)
            os.waitpid(process.number, 0)
        shutil.rmtree(Path(process.address).parent, ignore_errors=True)
