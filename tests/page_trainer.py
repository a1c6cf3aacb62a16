"""The trainer of docs/own_trainer.md, with a tiny model in place of the named one."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

PAGE = Path(__file__).parents[1] / "docs/own_trainer.md"
LINE = re.compile(r"\d+ \(\d,\) reward (0\.\d{3}), mean weight [01]\.\d{3}")  # what it prints at each step


def page_code() -> str:
    """The one block of Python of the page, as it is."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return str(code)


def tiny_code(folder: Path) -> str:
    """The page's code for the tiny model, which this writes to `folder`.

    It is seeded, its completions have three tokens, and its learning rate is higher.
    """
    words = ["<end>", "<pad>", "[UNK]", *["What", "is", "+", "*", "-", "?", "2", "6", "7", "12", "30", "40", "42"]]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>", unk_token="[UNK]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=10, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    code = page_code().replace("Qwen/Qwen2.5-0.5B-Instruct", str(folder)).replace("1e-6", "0.05")
    code = code.replace("import torch\n", "import torch\n\ntorch.manual_seed(5)\n", 1)
    code = re.sub(r"GROUP, LENGTH = (.*), 8, 256", r"GROUP, LENGTH = \1, 8, 3", code)
    assert "8, 3" in code
    return code


def check_output(output: str) -> None:
    """It printed its line at each step, and learned."""
    lines = output.strip().splitlines()
    assert len(lines) == 20
    matches = [LINE.fullmatch(line) for line in lines]
    assert all(matches), lines
    rewards = [float(match[1]) for match in matches if match]
    assert sum(rewards[-5:]) > sum(rewards[:5]), "it did not learn"
