"""Fast decoding of groups of completions: what a rollout does not need is not computed.

- The completions of a prompt share a line of the cache, in which a mask lets each see the prompt and its own tokens:
  the prompt is stored once, and attention is one matrix product per line instead of one per completion.
- The cache is allocated once and written in place; heads that share keys and values are never repeated.
- Completions that have ended are not computed any more, and the cache shrinks with them.

A line has W slots, one per completion. It holds keys and values at indices: those of the prompt at 0 to S - 1, those of
token j of the completion in slot s at S + j * W + s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.engine.layer_weights import RolloutWeights
from nested_reft.engine.llama import PackedModel, attention
from nested_reft.engine.tensors import position_ids

MAX_WIDTH = 16  # slots of a line: each computes, and masks, the products with the tokens of all others
COMPACT_BELOW = 2 / 3  # when this share of the slots is still in use, the cache is copied into a smaller one


@dataclass
class _Layout:
    """The cache's L lines and what is in them.

    prompt_mask: (L, S); width: W; active: (R,) the slots of the rows, ascending, of L * W; None if all are active;
    length: the indices of a line; mask: `additive_mask` of what each slot sees of them.
    """

    prompt_mask: Tensor
    width: int
    active: Tensor | None
    length: int
    mask: Tensor

    @property
    def num_slots(self) -> int:
        return len(self.prompt_mask) * self.width

    @property
    def slots(self) -> Tensor:
        return torch.arange(self.num_slots, device=self.prompt_mask.device) if self.active is None else self.active

    def grid(self, heads: Tensor) -> Tensor:
        """Heads (R, H, width) of the rows as (L, W, H, width); 0 in empty slots: masked, but it must be finite."""
        if self.active is not None:
            heads = heads.new_zeros(self.num_slots, *heads.shape[1:]).index_copy_(0, self.active, heads)
        return heads.view(len(self.prompt_mask), self.width, *heads.shape[1:])


class GroupedDecoder:
    """Decoding with several completions per line of the cache; `decoder.Decoder` documents the methods."""

    def __init__(self, model: PreTrainedModel, weights: RolloutWeights | None = None) -> None:
        self._model = PackedModel(model, weights or RolloutWeights())
        self._caches: list[tuple[Tensor, Tensor]] = []  # keys and values of each layer, (L, length, heads, width)

    def start(self, prompt_ids: Tensor, prompt_mask: Tensor, group_size: int, max_new_tokens: int) -> Tensor:
        mask, device = prompt_mask.bool(), prompt_mask.device
        num_prompts, prompt_length = mask.shape
        self._steps, self._max_steps = 0, max_new_tokens
        # One line per prompt, which is read as if each of its tokens had a slot; padding is a slot without a row.
        causal = mask.new_ones(prompt_length, prompt_length).tril() & mask.unsqueeze(1)
        real = None if mask.all() else mask.flatten().nonzero().squeeze(-1)
        self._layout = _Layout(mask, prompt_length, real, prompt_length, self._model.additive_mask(causal))
        # Of every position, once: a step then looks up those of its rows.
        self._rotations = self._model.rotations(torch.arange(prompt_length + max_new_tokens, device=device))
        hidden = self._forward(prompt_ids[mask], position_ids(mask)[mask], 0)
        lengths = mask.sum(-1)

        num_lines = math.ceil(group_size / MAX_WIDTH)
        width = math.ceil(group_size / num_lines)
        prompts = torch.arange(num_prompts, device=device)
        active = (prompts.unsqueeze(1) * num_lines * width + torch.arange(group_size, device=device)).flatten()
        lines = prompts.repeat_interleave(num_lines)
        self._lay_out(lines, torch.zeros((len(lines), width), dtype=torch.long, device=device), active)
        self._position_ids = lengths.repeat_interleave(group_size)
        return self._model.logits(hidden[lengths.cumsum(0) - 1])

    def step(self, tokens: Tensor) -> Tensor:
        filled = self._layout.prompt_mask.shape[1] + self._steps * self._layout.width
        hidden = self._forward(tokens, self._position_ids, filled)
        self._steps += 1
        self._position_ids = self._position_ids + 1
        return self._model.logits(hidden)

    def keep(self, rows: Tensor) -> None:
        layout = self._layout
        active = layout.slots[rows]
        self._position_ids = self._position_ids[rows]
        lines, counts = torch.unique_consecutive(active // layout.width, return_counts=True)
        width = int(counts.max())
        if len(lines) * width > COMPACT_BELOW * layout.num_slots:
            layout.active = active
            return
        line = torch.arange(len(lines), device=active.device).repeat_interleave(counts)
        slot = torch.arange(len(active), device=active.device) - (counts.cumsum(0) - counts)[line]
        sources = active.new_zeros(len(lines), width)
        sources[line, slot] = active % layout.width
        self._lay_out(lines, sources, line * width + slot)

    def _lay_out(self, lines: Tensor, sources: Tensor, active: Tensor) -> None:
        """Copy the cache into new lines: from the old `lines` (L,) the prompt and the old slots `sources` (L, W).

        The new slots `active` (R,) get a row; the content of the others does not matter.
        """
        old, (num_lines, width) = self._layout, sources.shape
        prompt_mask = old.prompt_mask[lines]
        prompt_length = prompt_mask.shape[1]
        step = torch.arange(self._steps, device=lines.device).view(1, -1, 1)
        own = (prompt_length + step * old.width + sources.unsqueeze(1)).flatten(1)
        prompt = torch.arange(prompt_length, device=lines.device).expand(num_lines, -1)
        kept = torch.cat((prompt, own), dim=1) + (lines * old.length).unsqueeze(1)
        prompt_seen = prompt_mask.unsqueeze(1).expand(-1, width, -1)
        own_seen = torch.eye(width, dtype=torch.bool, device=lines.device).repeat(1, self._max_steps)
        visible = torch.cat((prompt_seen, own_seen.expand(num_lines, -1, -1)), dim=-1)
        self._layout = _Layout(
            prompt_mask,
            width,
            None if len(active) == num_lines * width else active,
            visible.shape[-1],
            self._model.additive_mask(visible),
        )
        for number, caches in enumerate(self._caches):
            keys, values = self._new_cache(caches[0]), self._new_cache(caches[1])
            for new, cache in ((keys, caches[0]), (values, caches[1])):
                new[:, : kept.shape[1]] = cache.flatten(0, 1)[kept]
            self._caches[number] = (keys, values)

    def _new_cache(self, heads: Tensor) -> Tensor:
        """An empty cache for heads like these (..., heads, width)."""
        return heads.new_empty(len(self._layout.prompt_mask), self._layout.length, *heads.shape[-2:])

    def _forward(self, ids: Tensor, position_ids: Tensor, filled: int) -> Tensor:
        """Hidden states (R, D) of one token per row: ids, positions (R,); `filled`: the first free index of a line."""
        layout = self._layout
        length = filled + layout.width
        mask = layout.mask[..., :length]

        def attention_fn(number: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if number == len(self._caches):
                self._caches.append((self._new_cache(key), self._new_cache(value)))
            keys, values = self._caches[number]
            keys[:, filled:length], values[:, filled:length] = layout.grid(key), layout.grid(value)
            seen = attention(layout.grid(query), keys[:, :length], values[:, :length], mask).flatten(0, 1)
            return seen if layout.active is None else seen[layout.active]

        return self._model.forward(ids, self._rotations[position_ids], attention_fn)
