"""Fixtures that more than one room's tests use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from nested_reft.data.repositories import MIRROR_VARIABLE

# Hypothesis limits the time of each example by default; no test may depend on how busy the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def data_mirror() -> Path:
    """The folder of real data sets; a test that asks for it is skipped if there is none."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get(MIRROR_VARIABLE) or beside)
    if not folder.is_dir():
        pytest.skip(f"no real data: {MIRROR_VARIABLE} is not set, and {beside} does not exist")
    return folder
