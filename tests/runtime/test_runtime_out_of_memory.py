"""A full GPU is one line that names the setting to lower, by the phase that failed; no traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_training import PROMPT, tiny_policy, tiny_problems, tiny_settings

from nested_reft.cli import main
from nested_reft.data.records import write_problems
from nested_reft.engine import sampling
from nested_reft.evaluation import gradients
from nested_reft.rollouts import policy as policies
from nested_reft.rollouts.policy import save_policy
from nested_reft.training import step

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB. Of it 5 MiB is free."
EVALUATE = {
    "size": "tiny", "run": None, "benchmarks": ["one"], "dtype": "float32", "device": "cpu",
    "prompt": PROMPT.model_dump(), "evaluation": {"samples_per_problem": 2, "max_new_tokens": 3},
}  # fmt: skip
SAMPLED = {
    "size": "tiny", "skip": 34, "prompt": PROMPT.model_dump(), "sampling": {}, "border": 1, "max_prompt_tokens": 64,
    "dtype": "float32", "device": "cpu",
}  # fmt: skip
THROUGHPUT = SAMPLED | {"throughput": {"problems": 2, "completions_per_problem": 2, "new_tokens": 3, "pairs": 3}}
BATCHES = {"batches": 4, "problems_per_batch": 2, "completions_per_problem": 2}
ON_POLICY = {
    **{key: value for key, value in SAMPLED.items() if key not in ("skip", "border")}, "gradients": BATCHES,
    "max_new_tokens": 3, "problems_per_micro_batch": None, "gradient_checkpointing": False,
}  # fmt: skip
GRADIENTS = SAMPLED | ON_POLICY | {
    "gradients": BATCHES | {"corrections": {"unit": {}}}, "strategy": "uniform", "update_clip_low": 0.2,
    "update_clip_high": 0.2,
}  # fmt: skip
STEP = {
    "size": "tiny", "skip": 34, "correction": "base", "params": {}, "step_speed": {"pairs": 3},
    "training": tiny_settings().training.model_dump(), "prompt": PROMPT.model_dump(), "device": "cpu",
}  # fmt: skip


def full(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError(FULL)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    save_policy(tiny_policy(), tmp_path / "model")
    write_problems(tmp_path / "problems.jsonl", tiny_problems())
    return {"policy": str(tmp_path / "model"), "problems": str(tmp_path / "problems.jsonl"), "out": str(tmp_path)}


def call(command: str, settings: str, files: dict[str, str]) -> int:
    outputs = {name: f"{files['out']}/{name}" for name in ("output", "checkpoints", "metrics", "manifest")}
    named = ["output"] if command != "train" else list(outputs)
    paths = [part for name in named for part in (f"--{name}", outputs[name])]
    inputs = ["--policy", files["policy"], "--problems", files["problems"]]
    if command == "gradients":
        sets = torch.zeros(2, 4, sum(parameter.numel() for parameter in tiny_policy().model.parameters()))
        save_file({"on_policy": sets[0].clone(), "repeat": sets[1].clone()}, f"{files['out']}/on_policy.safetensors")
        inputs += ["--on-policy", f"{files['out']}/on_policy.safetensors"]
    return main([command, "--settings", settings, *inputs, *paths])


@pytest.mark.parametrize(
    ("command", "settings", "module", "function", "parts"),
    [
        ("train", None, sampling, "make_decoder", ["a rollout", "training.problems_per_step, completions_per_problem"]),
        ("train", None, step, "target_logp", ["an update", "lower training.problems_per_micro_batch"]),
        ("train", None, policies, "AutoModelForCausalLM", ["loading the model"]),
        ("evaluate", EVALUATE, sampling, "make_decoder", ["a rollout", "lower evaluation.batch_problems"]),
        ("throughput", THROUGHPUT, sampling, "make_decoder", ["a rollout", "lower throughput.problems"]),
        ("step-speed", STEP, sampling, "make_decoder", ["a rollout", "lower training.problems_per_step"]),
        ("step-speed", STEP, step, "target_logp", ["an update", "lower training.problems_per_micro_batch"]),
        ("on-policy-gradients", ON_POLICY, gradients, "completion_logp", ["an update", "problems_per_micro_batch"]),
        ("gradients", GRADIENTS, sampling, "make_decoder", ["a rollout", "lower gradients.problems_per_batch"]),
        ("gradients", GRADIENTS, gradients, "completion_logp", ["an update", "training.problems_per_micro_batch"]),
    ],
)
def test_a_full_gpu_names_the_setting_to_lower(
    command: str, settings: dict[str, Any] | None, module: Any, function: str, parts: list[str],
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    class Full:
        from_pretrained = staticmethod(full)

    monkeypatch.setattr(module, function, Full if function.startswith("Auto") else full)
    text = json.dumps(settings) if settings else tiny_settings().canonical_json()
    assert call(command, text, files) == 1
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    assert output.startswith(f"nested-reft {command}: error: not enough GPU memory for ")
    for part in [*parts, "Tried to allocate 2.00 GiB"]:
        assert part in output
