"""The benchmarks' modules, and one folder of pre-trained models for all tests of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """--cache: the tiny models are trained once."""
    return str(tmp_path_factory.mktemp("models"))
