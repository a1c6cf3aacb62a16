"""The README's lines that use the library run, and its table of claims is that of the reference run."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import nested_reft

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_library_lines_give_a_gradient() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=10, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()

    def reward(rollout: nested_reft.Rollout) -> torch.Tensor:
        return (rollout.tokens[:, 0] % 2).float().view(-1, 8)

    names = {
        "model": model, "prompt_ids": torch.arange(2, 10).view(2, 4), "prompt_mask": torch.ones(2, 4, dtype=torch.long),
        "end_id": 0, "pad_id": 1, "reward": reward,
    }  # fmt: skip
    exec(compile(code.replace("max_new_tokens=256", "max_new_tokens=6"), "README.md", "exec"), names)
    assert len(names["layers"]) == 1  # 10 % of 10 layers
    assert names["rollout"].tokens.shape == names["logp"].shape == (16, 6)
    names["loss"].backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad.norm() > 0
    assert 0 < names["metrics"]["weight_mean"] <= 1  # of retrace


def kept(run: str) -> list[dict[str, str]]:
    """The claims of a reference run."""
    with (ROOT / f"docs/reference/{run}/tables/claims.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rows() -> dict[str, list[str]]:
    """The cells of each row of the README's table of claims."""
    lines = [line.split(" | ") for line in README.replace("−", "-").splitlines() if re.match(r"\| C\d", line)]
    return {row[0].strip("| "): row for row in lines}


def shown(text: str) -> tuple[list[str], list[str]]:
    """The numbers of a measured value, and what it says in place of one."""
    return re.findall(r"[-+]?\d+\.\d+", text), re.findall("not run|not resolved", text)


@pytest.mark.parametrize(("run", "column"), [("laptop", 3), ("smollm2", 5)])
def test_the_table_of_claims_is_that_of_the_reference_run(run: str, column: int) -> None:
    """Each row: the claim's verdict, and the estimate with the interval of its worst case, or that it has none."""
    found = {name: (row[column].strip("| "), *shown(row[column - 1])) for name, row in rows().items()}
    assert found == {
        row["id"]: (row["verdict"], *shown(row["measured"].partition("): ")[2].partition("; ")[0] or row["measured"]))
        for row in kept(run)
    }


@pytest.mark.parametrize("run", ["laptop", "smollm2"])
def test_the_claims_are_in_the_words_of_the_registry(run: str) -> None:
    """With their thresholds; of claims that are judged for each correction, the first row has the words."""
    words = {name: re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", row[1]).replace("`", "'") for name, row in rows().items()}
    claims = {row["id"]: row["claim"] for row in kept(run)}
    for name, claim in claims.items():
        first = next(other for other in claims if other[:2] == name[:2])
        assert words[name] == (claim if name == first else f"the same with '{name.partition('-')[2]}'")
