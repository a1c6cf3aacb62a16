"""Two calls of the pipeline in one folder: the second is refused, and the first is not disturbed."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from workflow_harness import Pipeline, tiny_config

pytestmark = pytest.mark.slow


def test_a_second_call_in_the_same_folder_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    pipeline = Pipeline.copied_to(tmp_path / "pipeline")
    config = pipeline.write_config(tiny_config())
    with subprocess.Popen(
        pipeline.command(config=config),
        cwd=pipeline.folder,
        env=pipeline.environment(None),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as first:
        deadline = time.monotonic() + 600
        while not list((pipeline.folder / ".snakemake/locks").glob("*")):
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = pipeline.call(config=config)
        assert second.code != 0
        assert "Directory cannot be locked" in second.output
        assert first.poll() is None, "the first call had ended: the test would show nothing"
        assert first.wait(timeout=1800) == 0
    assert pipeline.dry_run(config=config).jobs == {}
