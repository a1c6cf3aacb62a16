"""Jobs side by side change no number, and threads no more than the rounding of sums.

Other settings for speed or memory are tested where they are made: micro-batches and activation checkpointing beside
this file, parts of a rollout in `tests/engine`, batches of an evaluation in `tests/evaluation`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import TIMINGS, grade_by_checksum, tiny_policy, tiny_problems, tiny_settings

from nested_reft.tasks import rewards
from nested_reft.training.run import train

SCRIPT = """
import json, sys
from pathlib import Path
from safetensors.torch import save_file
from test_training_speed_settings import trained
folder = Path(sys.argv[1])
metrics, weights = trained(folder / "checkpoints", seed=int(sys.argv[2]))
save_file(weights, folder / "weights.safetensors")
(folder / "metrics.json").write_text(json.dumps(metrics))
"""


def trained(folder: Path, seed: int = 1, width: int = 64) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """Metrics, without timings, and final weights of a nested run."""
    rewards.grade = grade_by_checksum
    policy = tiny_policy(width=width, feed_forward=2 * width)
    settings = tiny_settings(seed=seed, problems_per_step=6, max_new_tokens=8)
    done = train(settings, policy, tiny_problems(), folder, lambda row, left: None, lambda text: None)
    metrics = [{name: value for name, value in row.items() if name not in TIMINGS} for row in done.metrics]
    return metrics, {name: value.detach().clone() for name, value in policy.model.named_parameters()}


@pytest.fixture
def restored_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(rewards, "grade", rewards.grade)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("width", [16, 256])
@pytest.mark.usefixtures("restored_threads")
def test_threads_change_no_more_than_the_rounding(tmp_path: Path, width: int) -> None:
    """Of the first step: later ones start from weights that are rounded differently."""
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(trained(tmp_path / str(threads), width=width)[0][0])
    one, two = ({name: value for name, value in row.items() if name != "skipped_layers"} for row in found)
    assert found[0]["skipped_layers"] == found[1]["skipped_layers"]
    assert (one["reward"], one["completion_length"]) == (two["reward"], two["completion_length"])
    assert one == pytest.approx(two, rel=1e-4, nan_ok=True)


@pytest.mark.slow
def test_jobs_side_by_side_change_no_number(tmp_path: Path) -> None:
    def start(name: str, seed: int) -> subprocess.Popen[bytes]:
        (tmp_path / name).mkdir()
        paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / name), str(seed)], env=environment)

    assert start("alone", 1).wait() == 0
    assert [job.wait() for job in (start("one", 1), start("other", 2))] == [0, 0]
    alone, one, other = (tmp_path / name for name in ("alone", "one", "other"))
    assert (alone / "metrics.json").read_bytes() == (one / "metrics.json").read_bytes()
    assert (alone / "metrics.json").read_bytes() != (other / "metrics.json").read_bytes()
    weights, beside = load_file(alone / "weights.safetensors"), load_file(one / "weights.safetensors")
    assert all(torch.equal(value, beside[name]) for name, value in weights.items())
