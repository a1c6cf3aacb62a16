"""What the tests of faults share."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults_harness import Run


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing disturbed."""
    run = Run.prepared(tmp_path_factory.mktemp("uninterrupted"))
    ended = run.call()
    assert ended.code == 0, ended.output
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The same run, to be disturbed."""
    return Run.prepared(tmp_path / "run")
