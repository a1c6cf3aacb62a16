"""Two processes with gloo on a CPU: one draw for both, groups whole or spread over them, and one model at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_trl  # noqa: F401  skips without TRL

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]


def run(folder: Path, strategy: str, micro: int) -> list[dict[str, Any]]:
    """What each of two processes wrote."""
    environment = os.environ | {
        "MICRO": str(micro), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(TESTS / "core"), str(TESTS / "integrations"))),
    }  # fmt: skip
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            TESTS / "integrations/trl_processes.py", folder, strategy,
        ],
        env=environment, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]


@pytest.mark.parametrize(("strategy", "micro"), [("uniform", 2), ("influence", 2), ("least_half", 1)])
def test_both_processes_draw_the_same_and_end_with_one_model(tmp_path: Path, strategy: str, micro: int) -> None:
    first, second = run(tmp_path, strategy, micro)
    assert first["draws"] == second["draws"]
    assert [len(skipped) for skipped in first["draws"]] == [2, 2, 2]
    assert first["completions"] != second["completions"]
    # With two micro-batches each process has a group of its own, with one they share it.
    assert (first["prompts"] == second["prompts"]) == (micro == 1)
    assert first["weights"] == second["weights"]
    assert len(first["ess"]) == 3
    assert all(0 < ess < 1 for ess in first["ess"])
