"""One small made-up experiment, written and collected once for the tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import Effects, collect_results, make_config

from nested_reft.config.experiment import Config


@pytest.fixture(scope="session")
def small() -> Config:
    return make_config()


@pytest.fixture(scope="session")
def collected(tmp_path_factory: pytest.TempPathFactory, small: Config) -> Path:
    """A results folder with noise, collected; read only."""
    root = tmp_path_factory.mktemp("collected")
    collect_results(root, small, Effects(noise=0.02))
    return root
