"""The one place where a question becomes a prompt, and a prompt becomes tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nested_reft.config.sampling import Prompt
from nested_reft.tasks.records import DataError


def render_prompt(question: str, prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that the model continues. DataError if it is a chat prompt that the tokenizer cannot render."""
    if prompt.style == "plain":
        return question + prompt.suffix
    if not tokenizer.chat_template:
        raise DataError("the model's tokenizer has no chat template; set `prompt.style: plain`")
    messages = [{"role": "system", "content": prompt.system}] if prompt.system is not None else []
    messages.append({"role": "user", "content": question + prompt.suffix})
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        remedy = "remove `prompt.system`" if prompt.system is not None else "set `prompt.style: plain`"
        raise DataError(f"the model's chat template refuses the prompt ({error}); {remedy}") from error


def encode_prompts(
    questions: Sequence[str], prompt: Prompt, tokenizer: PreTrainedTokenizerBase, max_prompt_tokens: int
) -> list[list[int]]:
    """Token ids of each question's prompt, unpadded. DataError if one is longer than `max_prompt_tokens`.

    A prompt is never truncated: in neither style does it end with the question, and half a problem has another answer.
    """
    texts = [render_prompt(question, prompt, tokenizer) for question in questions]
    # A chat template writes the special tokens itself; adding them again would double the first.
    encoded: list[list[int]] = (
        tokenizer(texts, add_special_tokens=prompt.style == "plain")["input_ids"] if texts else []
    )
    for question, tokens in zip(questions, encoded, strict=True):
        if len(tokens) > max_prompt_tokens:
            raise DataError(
                f"the prompt of {question[:60]!r} has {len(tokens)} tokens, more than max_prompt_tokens: "
                f"{max_prompt_tokens}; raise it"
            )
    return encoded


def left_pad(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids (P, S) int64 padded on the left to the longest, and which are real (P, S) bool."""
    width = max((len(sequence) for sequence in sequences), default=0)
    tokens = torch.full((len(sequences), width), pad_id, dtype=torch.int64)
    real = torch.zeros((len(sequences), width), dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        if sequence:
            tokens[row, -len(sequence) :] = torch.tensor(sequence, dtype=torch.int64)
            real[row, -len(sequence) :] = True
    return tokens, real
