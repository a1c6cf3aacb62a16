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

    The tokens are read by themselves, followed by others, and after padding, up to `longest` tokens in all. Except for
    rounding it is 0 for a causal model in evaluation mode that takes positions from `position_ids`.
    """
    base = model.base_model
    ids = torch.tensor([tokens], device=model.device)
    missing = max(longest - len(tokens), 0)
    more = ids[:, -1:].expand(1, missing)

    def hidden(ids: Tensor, mask: Tensor) -> Tensor:
        """(length, D) of one row of ids."""
        mask = mask.unsqueeze(0)
        output = base(input_ids=ids, attention_mask=mask, position_ids=position_ids(mask), use_cache=False)
        states: Tensor = output[0][0].float()
        return states

    real = torch.ones(len(tokens) + missing, dtype=torch.bool, device=model.device)
    alone = hidden(ids, real[: len(tokens)])
    followed = hidden(torch.cat((ids, more), dim=1), real)[: len(tokens)]
    real[:missing] = False
    padded = hidden(torch.cat((more, ids), dim=1), real)[missing:]
    changes = [(other - alone).norm(dim=-1) / alone.norm(dim=-1) for other in (followed, padded)]
    return max(float(change.median()) for change in changes)
