"""The data of a rollout: completions, and the log-probability of each token as it was sampled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rollout:
    """Completions of P prompts, G each, as b sampled them: B = P * G rows, row p * G + g is completion g of prompt p.

    Args:
        prompt_ids: (P, S) token ids, left-padded.
        prompt_mask: (P, S), true for the prompt's own tokens.
        tokens: (B, T) token ids; the pad token where the mask is false.
        mask: (B, T) bool, true up to and including the end token.
        logp: (B, T), log b of each token as sampled, in nats; 0 where the mask is false. float64 for a float64 model
            and float32 for every other.
        support: (B, T, K) int32, the token ids that top-k and top-p kept at each step, the most probable first. K is
            the most that any step kept, -1 fills the steps that kept fewer. Where the mask is false it is the pad token
            only, whose renormalised log-probability is 0. None if nothing was cut. It takes 4 * B * T * K bytes: top-p
            on a flat distribution can keep a good part of the vocabulary, and a top_k next to it bounds K.
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

    def groups(self, which: slice | Tensor) -> Rollout:
        """The rollout of some prompts alone: a slice of them, or those for which a mask (P,) is true."""
        rows = torch.arange(len(self.tokens)).view(-1, self.group_size)[which].flatten()  # of their completions
        of_rows = (self.tokens, self.mask, self.logp, self.support)
        return Rollout(
            self.prompt_ids[which],
            self.prompt_mask[which],
            *(None if tensor is None else tensor[rows] for tensor in of_rows),  # type: ignore[arg-type]
        )

    def to(self, device: torch.device | str) -> Rollout:
        """The same on another device."""
        return Rollout(**{name: None if t is None else t.to(device) for name, t in vars(self).items()})  # type: ignore[arg-type]
