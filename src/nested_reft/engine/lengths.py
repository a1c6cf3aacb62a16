"""How long a call a model can be given, and whether a token's distribution depends on the length of the call.

The sampler reads a completion token by token, the trainer at once, padded to the longest of a micro-batch: the same
token is computed in calls of different lengths. Their ratio is only right if the length does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from nested_reft.engine.tensors import position_ids


class LengthError(ValueError):
    """A call that is too long for its log-probabilities to be right; the message names the cause and the limit."""


def position_limit(config: PreTrainedConfig) -> int | None:
    """The tokens that a model is made for; None if its config.json names no limit."""
    config = config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    for rope in _rotary_parameters(config):
        # `max_position_embeddings` is often that of the model before YaRN extended it.
        if limit and rope["rope_type"] == "yarn":
            limit = max(limit, int(rope.get("factor", 1) * rope.get("original_max_position_embeddings", limit)))
    return limit


def exact_limit(config: PreTrainedConfig) -> tuple[int, str] | None:
    """The most tokens for which the rotary embeddings do not depend on the length of a call, and their type.

    None if they never do. `dynamic` computes the frequencies of all tokens from the length of the longest call so far,
    `longrope` has two sets of them, for short and for long calls (`dynamic_rope_update` of transformers).
    """
    config = config.get_text_config()
    limits = []
    for rope in _rotary_parameters(config):
        if "dynamic" in rope["rope_type"]:
            limits.append((config.max_position_embeddings, rope["rope_type"]))
        elif rope["rope_type"] == "longrope":
            limits.append((rope["original_max_position_embeddings"], rope["rope_type"]))
    return min(limits, default=None)


def _rotary_parameters(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """The parameters of a model's rotary embeddings; some have several, by type of layer."""
    found = getattr(config, "rope_parameters", None) or {}
    return [part for part in (found, *found.values()) if isinstance(part, dict) and "rope_type" in part]


def check_call_length(model: PreTrainedModel, longest: Callable[[], int]) -> None:
    """Raise LengthError if a call of `longest` tokens is beyond `exact_limit`; only then the number is needed."""
    limit = exact_limit(model.config)
    if limit is not None and longest() > limit[0]:
        raise LengthError(
            f"rotary embeddings of rope_type '{limit[1]}' depend on the length of a call beyond {limit[0]} tokens, and "
            f"sampler and trainer would disagree; this call has {longest()}: shorten prompts or completions"
        )


@torch.no_grad()
def length_dependence(model: PreTrainedModel, tokens: Sequence[int], longest: int) -> float:
    """How much hidden states change if the call is longer: relative to their norm, the median over `tokens`.

    The tokens are read by themselves, and between padding and other tokens, `longest` tokens in all. Except for
    rounding it is 0 for a causal model in evaluation mode that takes positions from `position_ids`.
    """
    ids = torch.tensor([tokens], device=model.device)
    missing = max(longest - len(tokens), 0)
    before = missing // 2
    last = ids[:, -1:]

    def hidden(ids: Tensor, padding: int) -> Tensor:
        """(length, D) of one row of ids, whose first `padding` are padding."""
        mask = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0) >= padding
        output = model.base_model(input_ids=ids, attention_mask=mask, position_ids=position_ids(mask), use_cache=False)
        states: Tensor = output[0][0].float()
        return states

    alone = hidden(ids, 0)
    longer = torch.cat((last.expand(1, before), ids, last.expand(1, missing - before)), dim=1)
    among = hidden(longer, before)[before : before + len(tokens)]
    return float(((among - alone).norm(dim=-1) / alone.norm(dim=-1)).median())
