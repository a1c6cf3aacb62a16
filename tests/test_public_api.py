"""The public API: names that load on first use, are typed, and say shapes, units and errors in their docstrings."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import nested_reft

ROOT = Path(__file__).parents[1]
# What a user of the library writes: every public name, with the types that a strict checker must accept.
SNIPPET = """
import torch
import nested_reft as nr
from transformers import PreTrainedModel

def loss_of(model: PreTrainedModel, ids: torch.Tensor, gold: str, texts: list[str]) -> tuple[torch.Tensor, float]:
    view = nr.nested_view(model, nr.draw_skipped_layers(12, skip_percent=10, border=1, generator=None))
    rollout: nr.Rollout = nr.sample_completions(
        view, ids, torch.ones_like(ids), group_size=4, max_new_tokens=8, temperature=1.0, end_ids=[0], pad_id=0,
        weights=nr.RolloutWeights("bfloat16"))
    advantages = nr.group_advantages(torch.tensor([float(nr.grade(text, gold)) for text in texts]).view(-1, 4))
    logp = nr.completion_logp(model, rollout, temperature=1.0)
    weights = nr.importance_weights("tis_token", logp, rollout.logp, rollout.mask, C=2.0)
    distance = nr.off_policy_diagnostics(logp, rollout.logp, rollout.mask)["kl_k3"] + weights.sum().item()
    loss, metrics = nr.policy_loss(
        nr.Objective("retrace"), logp, rollout.logp, rollout.mask, advantages, max_new_tokens=8)
    return loss, metrics["weight_mean"] + distance
"""


def run(code: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_public_names_are_listed_before_they_are_loaded_and_load_no_heavy_package() -> None:
    code = (
        "import sys, json, nested_reft; nested_reft.__version__; print(json.dumps([dir(nested_reft), [*sys.modules]]))"
    )
    listed, modules = json.loads(run(code))
    assert {*nested_reft.__all__, "__version__"} <= set(listed)
    assert {name.partition(".")[0] for name in modules}.isdisjoint(
        {"numpy", "pydantic", "sympy", "torch", "transformers"}
    )
    names = json.loads(run("from nested_reft import *; import json; print(json.dumps(dir()))"))
    assert set(nested_reft.__all__) <= set(names)


@pytest.mark.parametrize("name", nested_reft.__all__)
def test_a_public_name_is_the_object_of_its_module(name: str) -> None:
    value = getattr(nested_reft, name)
    assert value is getattr(import_module(value.__module__), name)
    assert value.__module__.startswith(("nested_reft.core.", "nested_reft.engine.", "nested_reft.grading."))
    assert vars(nested_reft)[name] is value, "the second use must not search again"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'nested_reft' has no attribute 'nested_veiw'"):
        _ = nested_reft.nested_veiw
    with pytest.raises(ImportError, match="nested_veiw"):
        exec("from nested_reft import nested_veiw")


@pytest.mark.parametrize("name", nested_reft.__all__)
def test_a_public_name_is_documented(name: str) -> None:
    value = getattr(nested_reft, name)
    text = inspect.getdoc(value) or ""
    sections = re.findall(r"^(Args|Returns|Raises):$", text, re.MULTILINE)
    documented = set()
    for names in re.findall(r"^    ([a-z_, ]+): ", text.partition("Args:")[2], re.MULTILINE):
        documented |= set(names.split(", "))
    parameters = inspect.signature(value).parameters
    assert sections[0] == "Args"
    assert inspect.isclass(value) or "Returns" in sections
    assert not re.search(r"^Returns:\n.*: ", text, re.MULTILINE), (
        "the site would show the text before a colon as a type"
    )
    assert set(parameters) <= documented, f"no word on {set(parameters) - documented}"
    takes_tensors = any("Tensor" in str(parameter.annotation) for parameter in parameters.values())
    assert not takes_tensors or re.search(r"\([BP], [GST]\)", text), "no shape"


@pytest.mark.slow
def test_a_strict_type_checker_accepts_a_user_s_code(tmp_path: Path) -> None:
    code = tmp_path / "user.py"

    def check(text: str) -> subprocess.CompletedProcess[str]:
        code.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", code.name]
        environment = os.environ | {"MYPYPATH": str(ROOT / "src")}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert set(re.findall(r"\bnr\.(\w+)", SNIPPET)) == set(nested_reft.__all__)
    done = check(SNIPPET)
    assert done.returncode == 0, done.stdout
    assert 'error: Argument "group_size"' in check(SNIPPET.replace("group_size=4", "group_size='4'")).stdout
