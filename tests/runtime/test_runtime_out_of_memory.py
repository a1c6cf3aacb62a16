"""A full GPU is one line that names the setting to lower, by the phase that failed; no traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import PROMPT, tiny_policy, tiny_problems, tiny_settings

from nested_reft.cli import main
from nested_reft.config.experiment import Config
from nested_reft.data.records import write_problems
from nested_reft.engine import sampling
from nested_reft.rollouts import policy as policies
from nested_reft.rollouts.policy import save_policy
from nested_reft.runtime.out_of_memory import ADVICE
from nested_reft.training import step

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB. Of it 5 MiB is free."
EVALUATE = {
    "size": "tiny", "run": None, "benchmarks": ["one"], "dtype": "float32", "device": "cpu",
    "prompt": PROMPT.model_dump(), "evaluation": {"samples_per_problem": 2, "max_new_tokens": 3},
}  # fmt: skip


def full(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError(FULL)


@pytest.mark.parametrize(
    ("command", "module", "function", "parts"),
    [
        ("train", sampling, "make_decoder", ["a rollout", "training.problems_per_step, completions_per_problem"]),
        ("train", step, "target_logp", ["an update", "lower training.problems_per_micro_batch"]),
        ("train", policies, "AutoModelForCausalLM", ["loading the model"]),
        ("evaluate", sampling, "make_decoder", ["a rollout", "lower evaluation.batch_problems"]),
    ],
)
def test_a_full_gpu_names_the_setting_to_lower(
    command: str, module: Any, function: str, parts: list[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    save_policy(tiny_policy(), tmp_path / "model")
    write_problems(tmp_path / "problems.jsonl", tiny_problems())
    files = {"policy": "model", "problems": "problems.jsonl", "output": "output"}
    if command == "train":
        files |= {name: name for name in ("checkpoints", "metrics", "manifest")}
    paths = [part for name, file in files.items() for part in (f"--{name}", str(tmp_path / file))]
    settings = tiny_settings().canonical_json() if command == "train" else json.dumps(EVALUATE)

    class Full:
        from_pretrained = staticmethod(full)

    monkeypatch.setattr(module, function, Full if function.startswith("Auto") else full)
    assert main([command, "--settings", settings, *paths]) == 1
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    assert output.startswith(f"nested-reft {command}: error: not enough GPU memory for ")
    for part in [*parts, "Tried to allocate 2.00 GiB"]:
        assert part in output


def test_every_setting_that_is_named_exists() -> None:
    """By sub-command: `section.key`, and keys of the section before."""
    schema = Config.model_json_schema()
    for command, advice in ADVICE.items():
        section = None
        for word in re.findall(r"[a-z]+[a-z_.]+", " ".join(advice)):
            if "." in word:
                section, _, word = word.partition(".")
            elif "_" not in word:
                continue
            assert section, command
            reference = json.dumps(schema["properties"][section])
            name = re.findall(r"#/\$defs/(\w+)", reference)[0]
            assert word in schema["$defs"][name]["properties"], (command, section, word)
