"""The memory plan: against what autograd really keeps and what is really written, and how it splits over GPUs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import tiny_policy
from transformers import Qwen2Config, Qwen2ForCausalLM

from nested_reft.config.rollout_engine import Vllm
from nested_reft.config.training import Training
from nested_reft.core.rollout import Rollout
from nested_reft.engine import logp
from nested_reft.engine.logp import completion_logp
from nested_reft.engine.matrices import why_no_precision
from nested_reft.planning.costs import Gpus, Shape, layer_activations, plan_memory, vllm_fits
from nested_reft.planning.plan import Disk
from nested_reft.rollouts.policy import save_policy
from nested_reft.training import checkpoint
from nested_reft.training.checkpoint import CheckpointKey, TrainingState, save_checkpoint
from nested_reft.training.world import SINGLE_PROCESS

PROMPTS, PROMPT, GROUP, NEW = 2, 12, 4, 24


def small_model(layers: int) -> Qwen2ForCausalLM:
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=50, hidden_size=64, intermediate_size=256, num_hidden_layers=layers, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=True,
        )
    )  # fmt: skip


def kept(layers: int, dtype: str) -> int:
    """Bytes that autograd keeps of one forward pass beyond the parameters and their copies."""
    model, found = small_model(layers), {}
    rows = PROMPTS * GROUP
    rollout = Rollout(
        torch.ones(PROMPTS, PROMPT, dtype=torch.long), torch.ones(PROMPTS, PROMPT, dtype=torch.long),
        torch.ones(rows, NEW, dtype=torch.long), torch.ones(rows, NEW, dtype=torch.bool), torch.zeros(rows, NEW),
    )  # fmt: skip
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            found[storage.data_ptr()] = (storage.nbytes(), tensor)  # alive, or its place would be used again
        return tensor

    with (
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        completion_logp(model, rollout, 1.0)
    copies = layers * Shape(model).layer_matrices * 2 if dtype == "bfloat16" else 0
    return sum(size for size, _ in found.values()) - copies


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("dtype", "value_bytes"), [("float32", 4), ("bfloat16", 2)])
def test_the_activations_of_a_layer_are_what_autograd_keeps(
    dtype: str, value_bytes: int, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 15 %: what is left out is small and depends on how torch computes attention."""
    tokens = PROMPTS * (PROMPT + GROUP * NEW)
    if not packed:
        monkeypatch.setattr(logp, "why_unsupported", lambda _: "by the model's own forward")
        tokens = PROMPTS * GROUP * (PROMPT + NEW)
    measured = (kept(3, dtype) - kept(2, dtype)) / tokens
    planned = layer_activations(Shape(small_model(1)), value_bytes, (PROMPT + NEW) / NEW)
    assert planned == pytest.approx(measured, rel=0.15)


def training(**changes: Any) -> Training:
    settings = {
        "steps": 1, "problems_per_step": 8, "completions_per_problem": 2, "max_new_tokens": 4, "learning_rate": 1,
        "problems_per_micro_batch": 1, "dtype": "bfloat16",
    }  # fmt: skip
    return Training(**(settings | changes))


PLANNED = [  # way, dtype, activation checkpointing
    ("all weights", "float32", False),
    ("all weights", "float32", True),
    ("all weights", "bfloat16", False),
    ("adapters", "float32", True),
    ("shards", "float32", False),
    ("shards", "bfloat16", True),
]


@pytest.mark.slow
@pytest.mark.parametrize(("way", "dtype", "checkpointing"), PLANNED)
def test_the_peak_of_a_step_is_what_is_planned(way: str, dtype: str, checkpointing: bool) -> None:
    """Within 10 %. For shards within a third: how long gloo's own threads keep a copy depends on what else runs."""
    if reason := why_no_precision(dtype, torch.device("cpu")):
        pytest.skip(f"would take minutes: {reason}")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if way == "shards" else []
    script, folder = Path(__file__).with_name("measured_peak.py"), Path(__file__).parents[1] / "training"
    done = subprocess.run(
        [sys.executable, *launch, str(script), way, dtype, *["checkpointing"] * checkpointing],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
        capture_output=True, text=True, check=True, timeout=900,
    )  # fmt: skip
    found = json.loads(re.findall(r"{.*?}", done.stdout)[0])
    low, high = (2 / 3, 3 / 2) if way == "shards" else (0.9, 1.1)
    assert low < found["planned"] / found["measured"] < high


def test_vllm_takes_its_share_beside_an_update_unless_it_sleeps() -> None:
    """A quarter of 0.001 GB, which is more than an update of the small model with checkpointing, and less without."""
    shape, gpus = Shape(small_model(2)), Gpus(1, 0.001)
    for sleep in (False, True):
        memory = plan_memory(shape, training(), 3, gpus, "all weights", Vllm(memory_share=0.25, sleep=sleep))
        states = memory.weights + memory.gradients + memory.optimizer + memory.copies
        assert memory.rollout == 250_000
        for checkpointing, kept in ((False, memory.activations), (True, memory.checkpointed)):
            update = kept + memory.logits
            expected = max(update, 250_000) if sleep else update + 250_000
            assert memory.peak(checkpointing) == states + expected


def test_vllm_s_share_holds_the_weights_and_one_completion() -> None:
    """In bfloat16; keys and values of 32 entries in two layers."""
    shape, settings = Shape(small_model(2)), training()
    tokens = settings.max_prompt_tokens + settings.max_new_tokens
    needed = 2 * shape.parameters + 2 * 2 * 32 * 2 * tokens
    for more, fits in ((1.01, True), (0.99, False)):
        assert vllm_fits(shape, settings, more * needed / 0.5 / 1e9, Vllm(memory_share=0.5)) is fits


def test_the_disk_is_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the files' headers."""
    policy = tiny_policy(width=96, feed_forward=256)
    parameters = Shape(policy.model).parameters
    disk = Disk("tiny", model=4 * parameters, policy=4 * parameters, policies=3, checkpoint=12 * parameters)
    save_policy(policy, tmp_path / "policy")
    assert (tmp_path / "policy/model.safetensors").stat().st_size == pytest.approx(disk.policy, rel=0.02)
    optimizer = torch.optim.AdamW(policy.model.parameters())
    for parameter in policy.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for kept in (2, 1):  # of a large model only the last: a resumed run needs no more
        for step in (1, 2, 3):
            state = TrainingState(step, 0.0, [])
            save_checkpoint(tmp_path / "run", CheckpointKey("key", ""), policy.model, optimizer, state, SINGLE_PROCESS)
        sizes = [path.stat().st_size for path in (tmp_path / "run").glob("*.safetensors")]
        assert sizes == pytest.approx([disk.checkpoint] * kept, rel=0.03)  # another one while it is written
        assert disk.checkpoints == (kept + 1) * disk.checkpoint
        monkeypatch.setattr(checkpoint, "LARGE", disk.checkpoint // 2)
    assert disk.total == 4 * disk.policy
