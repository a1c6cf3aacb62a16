"""Several processes train one run: the same losses as one process, and an end with an error if one of them ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import tiny_policy, tiny_problems, tiny_settings

from nested_reft.data.records import write_problems
from nested_reft.rollouts.policy import save_policy
from nested_reft.training.world import SINGLE_PROCESS, World, WorldError

STEPS, PROBLEMS = 5, 4
HANG_SECONDS = 900  # only a process that waits for ever takes as long, on any machine
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def train(
    folder: Path, name: str, *, ranks: int = 2, dies_at: int = 0, **training: Any
) -> subprocess.CompletedProcess[str]:
    """A run by two processes of torchrun, or by one without it; its files are `name` in the folder."""
    settings = tiny_settings(**{"steps": STEPS, "problems_per_step": PROBLEMS} | training)
    policy, problems = folder / "model", folder / "problems.jsonl"
    if not problems.exists():
        save_policy(tiny_policy(), policy)
        write_problems(problems, tiny_problems())
    files = {"policy": policy, "problems": problems, "output": folder / name / "policy",
             "metrics": folder / name / "metrics.jsonl", "manifest": folder / name / "manifest.json",
             "checkpoints": folder / "checkpoints"}  # fmt: skip
    launch = TORCHRUN if ranks == 2 else []
    options = [part for key, path in files.items() for part in (f"--{key}", str(path))]
    return subprocess.run(
        [sys.executable, *launch, str(Path(__file__).with_name("rank.py")), str(dies_at),
         "--settings", settings.canonical_json(), *options],
        capture_output=True, text=True, timeout=HANG_SECONDS, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def result(folder: Path, name: str, done: subprocess.CompletedProcess[str]) -> tuple[list[dict[str, Any]], Any]:
    """Metrics of every step, and the final weights."""
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert json.loads((folder / name / "manifest.json").read_text())["answers_cut_off"] == 0
    return rows, load_file(folder / name / "policy" / "model.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.mark.slow
@pytest.mark.parametrize(
    "training",
    [
        {"normalisation": "bnpo", "problems_per_micro_batch": 1, "kl_coefficient": 0.1, "top_p": 0.9},
        {"sharding": True, "gradient_checkpointing": True, "updates_per_rollout": 2},
        {"lora": {"rank": 4}, "correction": "base"},
    ],
    ids=["micro-batches", "shards", "adapters"],
)
def test_two_processes_make_the_steps_of_one(folder: Path, training: dict[str, Any]) -> None:
    if "lora" in training:
        pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[lora]'")
    rows, weights = result(folder, "one", train(folder, "one", ranks=1, **training))
    ours, ours_weights = result(folder, "two", train(folder, "two", **training))
    assert max(abs(row["grad_norm"]) for row in rows) > 0.01, "no gradient, no test"
    for one, two in zip(rows, ours, strict=True):
        assert two["skipped_layers"] == one["skipped_layers"]
        for name in ("loss", "reward", "grad_norm", "completion_length", "ess", "kl_k3", "weight_mean", "weight_max"):
            assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-5), name
    for name, weight in weights.items():
        torch.testing.assert_close(ours_weights[name], weight, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_shards_in_bfloat16_are_on_policy(folder: Path) -> None:
    """At skip 0, the replica that samples and the shards that are trained differ by the rounding of hidden states."""
    settings = {"dtype": "bfloat16", "skip": 0, "updates_per_rollout": 2, "seed": 4}
    one, _ = result(folder, "half-one", train(folder, "half-one", ranks=1, **settings))
    ours, _ = result(folder, "half", train(folder, "half", sharding=True, **settings))
    for row in ours:
        assert row["ess"] > 0.998
        assert row["kl_k3"] < 1e-3
    assert sum(row["surrogate_clip_fraction"] for row in ours) > 0.1, "the second update sees the first"
    assert ours[0]["grad_norm"] == pytest.approx(one[0]["grad_norm"], rel=0.5)


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_job_and_a_new_call_goes_on(folder: Path) -> None:
    settings = {"seed": 2, "sharding": True}
    expected, weights = result(folder, "whole", train(folder, "whole", **settings))
    died = train(folder, "again", dies_at=4, **settings)
    assert died.returncode != 0
    assert "exitcode  : 9" in died.stderr.replace("exitcode: 9", "exitcode  : 9"), died.stderr
    assert not (folder / "again" / "policy").exists()
    done = train(folder, "again", **settings)
    rows, ours = result(folder, "again", done)
    assert "continues after step 2" in done.stderr
    assert [row["loss"] for row in rows] == [row["loss"] for row in expected], "not bit by bit"
    assert all(torch.equal(ours[name], weights[name]) for name in weights)


def test_shares_are_equal_and_cover_all_problems() -> None:
    assert [World(rank, 3).share(12) for rank in range(3)] == [slice(0, 4), slice(4, 8), slice(8, 12)]
    assert World(0, 3).share(12, rank=2) == slice(8, 12)
    assert SINGLE_PROCESS.share(7) == slice(0, 7)
    with pytest.raises(WorldError, match=r"problems_per_step: 3 problems .* evenly by 2 processes; set a multiple"):
        World(0, 2).share(3)
