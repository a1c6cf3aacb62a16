"""A policy on disk: a causal language model and its tokenizer, loaded and saved in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from nested_reft.config.sampling import Prompt
from nested_reft.data.records import DataError
from nested_reft.rollouts.prompts import end_token_ids, left_pad
from nested_reft.runtime.files import check_space

if TYPE_CHECKING:
    from nested_reft.core.rollout import Rollout

TOKENIZER = "tokenizer.json"
# What other tokenizers are saved as; transformers can convert these.
OTHER_TOKENIZERS = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
)


@dataclass(frozen=True)
class Policy:
    """A model and what sampling from it needs: tokenizer, the tokens that end a completion, and the padding token."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    end_ids: tuple[int, ...]
    pad_id: int

    def batch(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Prompts as left-padded ids and mask (P, S), on the model's device."""
        ids, mask = left_pad(prompts, self.pad_id)
        return ids.to(self.model.device), mask.to(self.model.device)

    def responses(self, rollout: Rollout) -> list[str]:
        """The text of each completion, without special tokens and without the token that ended it."""
        rows = [
            [token for token in tokens[keep].tolist() if token not in self.end_ids]
            for tokens, keep in zip(rollout.tokens.cpu(), rollout.mask.cpu(), strict=True)
        ]
        return list(self.tokenizer.batch_decode(rows, skip_special_tokens=True))


def select_device(name: str) -> torch.device:
    """The device of that name; DataError if a GPU was asked for and there is none: never a silent CPU run."""
    if name == "cuda" and not torch.cuda.is_available():
        raise DataError(
            "device: 'cuda' was asked for, but torch sees no GPU; check the driver and CUDA_VISIBLE_DEVICES, "
            "or set `device: cpu` in the config"
        )
    return torch.device(name)


def compute_dtype(model: PreTrainedModel, dtype: str) -> torch.autocast:
    """Matrix products in `dtype`; the weights stay float32, since bfloat16 weights would lose an update of 1e-6.

    A cast of a weight is kept until the context ends: end it before an update, and between passes without and with
    gradients.
    """
    return torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bfloat16")


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder; DataError says why it cannot be loaded, and what to do."""
    if not (path / TOKENIZER).is_file():
        others = sorted(file.name for file in path.glob("*") if file.name in OTHER_TOKENIZERS)
        load = f"AutoTokenizer.from_pretrained('{path}').save_pretrained('{path}')"
        raise DataError(
            f"{path}: cannot be loaded as a model: it has no {TOKENIZER}, the one tokenizer file that is read"
            + (f", but {' and '.join(others)}; convert: " if others else "; delete the folder to make it again")
            + (f'`python -c "from transformers import AutoTokenizer; {load}"`' if others else "")
        )
    try:
        # Not AutoTokenizer: for some model types (qwen2 is one) it takes the type's own class, which pre-tokenizes by
        # built-in rules instead of those in tokenizer.json.
        return PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
    except Exception as error:  # a damaged file: the parsers of json, tokenizers and transformers have no common error
        raise _not_loaded(path, "tokenizer", error) from None


def load_policy(path: Path, *, device: torch.device, dtype: str = "float32", prompt: Prompt | None = None) -> Policy:
    """The policy in a folder written by `save_policy` or downloaded from the hub; DataError names the folder.

    A completion ends with the model's own end tokens, and those that come with the prompt (`end_token_ids`).
    """
    tokenizer = load_tokenizer(path)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, local_files_only=True, dtype=getattr(torch, dtype), use_safetensors=True
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _not_loaded(path, "model", error) from None
    ends = model.generation_config.eos_token_id
    own_ids = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
    own_ids.discard(None)
    end_ids = own_ids | (end_token_ids(prompt, tokenizer) if prompt is not None else set())
    if not end_ids:
        raise DataError(
            f"{path}: neither generation_config.json nor the tokenizer names an end-of-sequence token; set "
            "`prompt.end_tokens`"
        )
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(own_ids or end_ids)
    return Policy(model.to(device).eval(), tokenizer, tuple(sorted(end_ids)), pad_id)


def _not_loaded(path: Path, part: str, error: Exception) -> DataError:
    reason = " ".join(
        f"{'' if isinstance(error, OSError | ValueError) else f'{type(error).__name__}: '}{error}".split()
    )
    return DataError(f"{path}: cannot be loaded as a {part} ({reason}); delete the folder to make it again")


def save_policy(policy: Policy, path: Path) -> None:
    """Write model (safetensors) and tokenizer into the folder `path`; StorageError if there is no space."""
    size = sum(parameter.numel() * parameter.element_size() for parameter in policy.model.parameters())
    check_space(path, size, "the model")
    policy.model.save_pretrained(path)
    policy.tokenizer.save_pretrained(path)
