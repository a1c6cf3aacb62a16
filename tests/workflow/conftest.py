"""One finished run of the smallest experiment, shared by the tests that look at it or steer from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from workflow_harness import Finished, Pipeline, tiny_config


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    """A fresh copy of the pipeline without results."""
    return Pipeline.copied_to(tmp_path / "pipeline")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    pipeline = Pipeline.copied_to(tmp_path_factory.mktemp("finished") / "pipeline")
    config = pipeline.write_config(tiny_config())
    imports = pipeline.folder.parent / "imports"
    first = pipeline.call(config=config, timeout=900, record=imports)
    assert first.code == 0, first.output
    return Finished(pipeline, config, first, imports)
