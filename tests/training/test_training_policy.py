"""A policy on disk: the tokens that end its completions, and folders that cannot be loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import tiny_policy

from nested_reft.config.sampling import Prompt
from nested_reft.core.rollout import Rollout
from nested_reft.data.records import DataError
from nested_reft.rollouts.policy import load_policy, save_policy

CPU = torch.device("cpu")
AGAIN = "delete the folder to make it again"
TURNS = "{% for m in messages %}{{ m.content }} <|im_end|>\n{% endfor %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base model whose only own end token is <end>, with a chat template whose turns end with <|im_end|>."""
    policy = tiny_policy()
    policy.tokenizer.add_tokens(["<|im_end|>"], special_tokens=False)
    policy.tokenizer.chat_template = TURNS
    policy.model.resize_token_embeddings(len(policy.tokenizer))
    save_policy(policy, tmp_path / "model")
    return tmp_path / "model"


# --- ends


@pytest.mark.parametrize(
    ("prompt", "ends"),
    [
        (None, ["<end>"]),
        (Prompt(style="plain"), ["<end>"]),
        (Prompt(style="chat"), ["<end>", "<|im_end|>"]),
        (Prompt(style="plain", end_tokens=("<|im_end|>", "?")), ["<end>", "?", "<|im_end|>"]),
    ],
)
def test_a_completion_ends_with_the_models_own_tokens_and_those_of_the_prompt(
    folder: Path, prompt: Prompt | None, ends: list[str]
) -> None:
    policy = load_policy(folder, device=CPU, prompt=prompt)
    assert policy.tokenizer.convert_ids_to_tokens(list(policy.end_ids)) == ends
    assert policy.tokenizer.convert_ids_to_tokens(policy.pad_id) == "<pad>"


def test_a_response_is_without_the_token_that_ended_it(folder: Path) -> None:
    policy = load_policy(folder, device=CPU, prompt=Prompt(style="chat"))
    ids = policy.tokenizer("answer : <|im_end|>")["input_ids"]
    tokens, mask = torch.tensor([ids, [*ids[:2], policy.pad_id]]), torch.tensor([[True] * 3, [True, True, False]])
    rollout = Rollout(tokens[:, :1], mask[:, :1], tokens, mask, torch.zeros(2, 3), None)
    assert policy.responses(rollout) == ["answer :", "answer :"]


def test_a_model_without_any_end_token_needs_the_setting(folder: Path) -> None:
    for file in ("generation_config.json", "tokenizer_config.json", "config.json"):
        path = folder / file
        path.write_text("".join(line for line in path.read_text().splitlines(True) if '"eos_token' not in line))
    with pytest.raises(DataError, match=r"names an end-of-sequence token; set `prompt\.end_tokens`"):
        load_policy(folder, device=CPU)
    policy = load_policy(folder, device=CPU, prompt=Prompt(style="plain", end_tokens=("<end>",)))
    assert policy.tokenizer.convert_ids_to_tokens(list(policy.end_ids)) == ["<end>"]


# --- folders that cannot be loaded


def error_of(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_policy(folder, device=CPU)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{folder}: cannot be loaded as a ")
    return str(caught.value)


def test_a_missing_tokenizer_file_is_named_and_converted_where_there_is_another(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert error_of(folder).endswith("it has no tokenizer.json, the one tokenizer file that is read; " + AGAIN)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_text("{}")
    call = f"AutoTokenizer.from_pretrained('{folder}').save_pretrained('{folder}')"
    assert "that is read, but merges.txt and vocab.json; convert: `python -c" in error_of(folder)
    assert call in error_of(folder)


def test_the_conversion_that_the_error_names_works(folder: Path) -> None:
    """A tokenizer of GPT-2's kind: vocab.json and merges.txt."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    (folder / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}')
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    code = error_of(folder).partition('python -c "')[2].removesuffix('"`')
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert load_policy(folder, device=CPU).tokenizer("ab")["input_ids"] == [2]


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("tokenizer.json", "{", "tokenizer (Expecting property name"),
        ("tokenizer.json", "{}", "tokenizer (KeyError"),
        ("tokenizer_config.json", "[", "tokenizer ("),
        ("config.json", "{", "is not a valid JSON file"),
        ("config.json", '{"model_type": "nope"}', "does not recognize this architecture"),
        ("model.safetensors", "abc", "model (SafetensorError: Error while deserializing header"),
        ("model.safetensors", None, "no file named model.safetensors"),
    ],
)
def test_the_reason_is_not_cut_off(folder: Path, file: str, content: str | None, reason: str) -> None:
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    assert reason in error_of(folder)
