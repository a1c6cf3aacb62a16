"""The data of a rollout: completions, and the log-probability of each token as it was sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Rollout:
    """Completions of P prompts, G each, B = P * G; row p * G + g is completion g of prompt p.

    prompt_ids, prompt_mask: (P, S), left-padded; tokens: (B, T); mask: (B, T), true up to and including the end
    token; logp: (B, T), log b of each token as sampled, 0 where the mask is false, float64 for a float64 model and
    float32 for every other.

    support: (B, T, K) int32, the token ids that top-k and top-p kept at each step, the most probable first, K the most
    that any step kept and -1 where a step kept fewer. Where the mask is false it is the pad token alone, whose
    renormalised log-probability is 0. None where nothing was cut. It takes 4 * B * T * K bytes: top-p alone on a flat
    distribution can keep a good part of the vocabulary, and a top_k next to it bounds K.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    tokens: Tensor
    mask: Tensor
    logp: Tensor
    support: Tensor | None = None

    @property
    def group_size(self) -> int:
        """G, the completions per prompt."""
        return self.tokens.shape[0] // self.prompt_ids.shape[0]

    def groups(self, first: int, last: int) -> Rollout:
        """The rollout of prompts `first` to `last - 1` alone."""
        rows = slice(first * self.group_size, last * self.group_size)
        return Rollout(
            self.prompt_ids[first:last], self.prompt_mask[first:last],
            self.tokens[rows], self.mask[rows], self.logp[rows], None if self.support is None else self.support[rows],
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Rollout:
        """The same on another device."""
        return Rollout(
            self.prompt_ids.to(device), self.prompt_mask.to(device), self.tokens.to(device), self.mask.to(device),
            self.logp.to(device), None if self.support is None else self.support.to(device),
        )  # fmt: skip


def join_rollouts(parts: Sequence[Rollout], pad_id: int) -> Rollout:
    """The rollout whose groups these are, in order. Their prompts are padded to one length already."""

    def joined(name: str, value: float) -> Tensor:
        """The parts' tensors (B, T, ...), padded to the size of the largest."""
        tensors = [getattr(part, name) for part in parts]
        sizes = [max(column) for column in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
        filled = []
        for tensor in tensors:
            missing = [(0, size - own) for size, own in zip(sizes, tensor.shape[1:], strict=True)]
            # F.pad counts dimensions from the last.
            filled.append(F.pad(tensor, [n for pair in reversed(missing) for n in pair], value=value))
        return torch.cat(filled)

    mask = joined("mask", False)
    support = None if parts[0].support is None else joined("support", -1)
    if support is not None:
        support[..., 0].masked_fill_(~mask, pad_id)
    prompt_ids, prompt_mask = (
        torch.cat([getattr(part, f"prompt_{name}") for part in parts]) for name in ("ids", "mask")
    )
    return Rollout(prompt_ids, prompt_mask, joined("tokens", pad_id), mask, joined("logp", 0), support)
