"""The decoder protocol: what sampling needs from a model, token by token, and an implementation for any architecture.

`make_decoder` uses the fast `grouped_decoder` for the architectures that it supports, and the model's own forward for
all others. Both sample the same tokens.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from nested_reft.engine.grouped_decoder import GroupedDecoder
from nested_reft.engine.layer_weights import RolloutWeights
from nested_reft.engine.llama import why_unsupported
from nested_reft.engine.tensors import position_ids


class Decoder(Protocol):
    """The state of one rollout. A row is a completion; rows that have ended are dropped and cost nothing more."""

    def start(self, prompt_ids: Tensor, prompt_mask: Tensor, group_size: int, max_new_tokens: int) -> Tensor:
        """Read P left-padded prompts (P, S), `group_size` rows each; returns logits (P, V) of their first tokens."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append a token (R,) to each row; returns logits (R, V) of the next."""

    def keep(self, rows: Tensor) -> None:
        """Continue with these rows only: ascending indices into the rows of the last step."""


def make_decoder(model: PreTrainedModel, weights: RolloutWeights | None = None) -> Decoder:
    """The fastest decoder that computes what `model` computes. Raises ValueError for int8 weights if it is slow."""
    reason = why_unsupported(model)
    if reason and weights and weights.precision == "int8":
        raise ValueError(f"rollouts of {type(model).__name__} cannot be in int8: {reason}")
    return ModelDecoder(model) if reason else GroupedDecoder(model, weights)


class ModelDecoder:
    """Decoding by the model's own forward and a cache with one row per completion.

    A layer's state in the cache is keys and values, or what a layer with linear attention, convolution or recurrence
    keeps in their place.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def start(self, prompt_ids: Tensor, prompt_mask: Tensor, group_size: int, max_new_tokens: int) -> Tensor:
        self._cache = DynamicCache(config=self._model.config)
        # The model reads its position from a layer with keys, and a nested view of a hybrid model may have none left.
        self._counter = None
        if not any(isinstance(layer, CacheLayerMixin) for layer in self._cache.layers):
            self._counter = DynamicLayer()
            self._cache.layers.append(self._counter)
        output = self._model(
            input_ids=prompt_ids,
            attention_mask=prompt_mask,
            position_ids=position_ids(prompt_mask),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._count(prompt_ids)
        # Not `batch_repeat_interleave`, which layers without keys do not have.
        self._cache.reorder_cache(torch.arange(len(prompt_ids), device=prompt_ids.device).repeat_interleave(group_size))
        self._attention = prompt_mask.bool().repeat_interleave(group_size, dim=0)
        self._position = self._attention.long().sum(-1, keepdim=True)
        logits: Tensor = output.logits[:, -1]
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        self._attention = torch.nn.functional.pad(self._attention, (0, 1), value=True)
        output = self._model(
            input_ids=tokens.unsqueeze(1),
            attention_mask=self._attention,
            position_ids=self._position,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._count(tokens.unsqueeze(1))
        self._position = self._position + 1
        logits: Tensor = output.logits[:, -1]
        return logits

    def keep(self, rows: Tensor) -> None:
        self._cache.reorder_cache(rows)
        self._attention, self._position = self._attention[rows], self._position[rows]

    def _count(self, ids: Tensor) -> None:
        """Let the cache know that these tokens (rows, length) were read."""
        if self._counter is not None:
            number = ids.new_zeros(len(ids), 1, ids.shape[1], 1)
            self._counter.update(number, number)
