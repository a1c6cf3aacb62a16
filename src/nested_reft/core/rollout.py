"""Rollouts: completions sampled from a (behaviour) policy, with the log-probability of each token as it was sampled.

Deviations from a general text generator, on purpose:
- one uniform number a sequence and step, drawn from a generator of our own: the same seed gives the same text;
- log-probabilities are those of the distribution that was sampled from: after temperature, top-k and top-p;
- where top-k or top-p cut the distribution, the kept tokens of each step are part of the rollout, so that another
  model's probabilities can be renormalised on them: the ratio of the two then has mean 1 at every step;
- a prompt is read once for the group's completions, and a completion that has ended costs nothing (`core/decoding.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.core.decoding import make_decoder

BLOCK = 1024  # columns


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
        """The parts' tensors (B, T, ...), as long and wide as the largest is."""
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


@torch.no_grad()
def sample_completions(
    model: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    *,
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    end_ids: Collection[int],
    pad_id: int,
    generator: torch.Generator | None = None,
    part: tuple[int, int] | None = None,
) -> Rollout:
    """Write `group_size` completions per prompt; temperature 0 is greedy (with logp 0: the choice is certain).

    prompt_ids, prompt_mask: (P, S), left-padded. A completion ends with the first of `end_ids` (empty: never) or
    after `max_new_tokens`. The model is used as it is; for a nested rollout pass a nested view. `part` (first, all):
    these prompts are those from number `first` on in a batch of `all`, and get the random numbers that they would get
    there.

    Temperature comes first; then `top_k` keeps that many of the most probable tokens; then `top_p` keeps the fewest of
    the most probable of those whose probability, renormalised after top_k, reaches top_p (always one at least). It is
    the order of transformers' warpers. Of equally probable tokens the lower id comes first, so that never more than
    top_k are kept (transformers keeps all that tie with the last). top_p 1 and top_k of the vocabulary or more cut
    nothing; greedy ignores both. Raises ValueError for temperature < 0, top_k < 1, top_p outside (0, 1], and prompts
    that are empty or padded on the right.
    """
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    if prompt_ids.shape != prompt_mask.shape:
        raise ValueError(f"prompt_ids {tuple(prompt_ids.shape)} and prompt_mask {tuple(prompt_mask.shape)} differ")
    if not prompt_mask[:, -1].all():
        raise ValueError("prompts must be padded on the left, and none may be empty")
    num_rows, device = prompt_ids.shape[0] * group_size, prompt_ids.device
    ends = torch.tensor(sorted(end_ids), dtype=torch.long, device=device)
    decoder = make_decoder(model)
    logits = widened(decoder.start(prompt_ids, prompt_mask, group_size, max_new_tokens))
    logits = logits.repeat_interleave(group_size, dim=0)
    tokens = torch.full((num_rows, max_new_tokens), pad_id, dtype=torch.long, device=device)
    mask = torch.zeros((num_rows, max_new_tokens), dtype=torch.bool, device=device)
    logp = torch.zeros((num_rows, max_new_tokens), dtype=logits.dtype, device=device)
    # One for every row and step, used or not: a completion does not depend on when another one ends.
    first, num_prompts = part or (0, len(prompt_ids))
    shape = (max_new_tokens, num_prompts, group_size)
    uniform = torch.rand(shape, generator=generator, dtype=logits.dtype, device=device)
    uniform = uniform[:, first : first + len(prompt_ids)].flatten(1)
    supports: list[tuple[Tensor, Tensor]] = []
    rows = torch.arange(num_rows, device=device)  # those that have not ended
    for step in range(max_new_tokens):
        if temperature == 0:
            token = logits.argmax(-1)
        elif (top_k is None or top_k >= logits.shape[-1]) and (top_p is None or top_p == 1):
            token, logp[rows, step] = _choose(logits / temperature, uniform[step, rows])
        else:
            kept, log_probs = _truncate(logits / temperature, top_k, top_p)
            rank, logp[rows, step] = _choose(log_probs, uniform[step, rows])
            # A row of nan has no rank; its logp is nan, and its token must still be one that the model can read.
            token = kept.gather(-1, rank.unsqueeze(-1)).squeeze(-1).clamp_min(0)
            supports.append((rows, kept.int()))
        tokens[rows, step], mask[rows, step] = token, True
        going = torch.isin(token, ends, invert=True)
        if step + 1 == max_new_tokens or not going.any():
            break
        if not going.all():
            kept_rows = going.nonzero().squeeze(-1)
            rows, token = rows[kept_rows], token[kept_rows]
            decoder.keep(kept_rows)
        logits = widened(decoder.step(token))
    mask = mask[:, : step + 1]
    support = _stack(supports, mask, pad_id) if supports else None
    return Rollout(prompt_ids, prompt_mask, tokens[:, : step + 1], mask, logp[:, : step + 1], support)


def widened(logits: Tensor) -> Tensor:
    """The logits in float64 where they are, in float32 otherwise: half types have too few digits for a ratio."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _choose(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """A column of each row of logits (R, V), by its uniform number (R,), and its log-probability: (R,) each.

    A long row is searched in two steps, among blocks of columns and in the block: the cumulative sum over a large
    vocabulary is slow, and in float32 inexact.
    """
    shifted = logits - logits.amax(-1, keepdim=True)
    weights = shifted.exp()
    if logits.shape[-1] <= BLOCK:
        column, total, _ = _invert(weights, uniform)
    else:
        blocks = F.pad(weights, (0, -weights.shape[-1] % BLOCK)).view(len(weights), -1, BLOCK)
        block, total, uniform = _invert(blocks.sum(-1), uniform)
        column, _, _ = _invert(blocks[torch.arange(len(blocks), device=block.device), block], uniform)
        column = (block * BLOCK + column).clamp_max(logits.shape[-1] - 1)
    return column, shifted.gather(-1, column.unsqueeze(-1)).squeeze(-1) - total.log()


def _invert(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The column at which the cumulative sum of each row of weights (R, V) passes uniform (R,) times the total, the
    total, and how far into the column's weight that is, from 0 to 1: (R,) each.
    """
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    # Below the total whatever the rounding; `right` then finds a column, and never one of weight 0.
    wanted = torch.minimum(uniform.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
    column = torch.searchsorted(cumulative, wanted, right=True).clamp_max(weights.shape[-1] - 1)  # nan has none
    weight = weights.gather(-1, column)
    within = 1 - (cumulative.gather(-1, column) - wanted) / weight
    return column.squeeze(-1), total.squeeze(-1), within.clamp(0, 1).squeeze(-1)


def _truncate(scaled: Tensor, top_k: int | None, top_p: float | None) -> tuple[Tensor, Tensor]:
    """What top_k and then top_p keep of the logits after temperature (R, V): token ids and log-probabilities (R, K).

    The most probable first, K the most that a row keeps; -1 and -inf where a row keeps fewer.
    """
    ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
    ordered, ids = ordered[:, :top_k], ids[:, :top_k]
    probs = torch.softmax(ordered, dim=-1)
    # A token that can never be sampled is not in the support: the other model's share of it would be lost to the ratio.
    kept = probs > 0
    if top_p is not None and top_p < 1:
        before = F.pad(probs.cumsum(-1)[:, :-1], (1, 0))
        kept &= before < top_p
    kept[:, 0] = True
    width = int(kept.sum(-1).max())
    kept, ordered, ids = kept[:, :width], ordered[:, :width], ids[:, :width]
    return ids.masked_fill(~kept, -1), torch.log_softmax(ordered.masked_fill(~kept, -torch.inf), dim=-1)


def _stack(supports: list[tuple[Tensor, Tensor]], mask: Tensor, pad_id: int) -> Tensor:
    """The supports of all steps, rows (R,) and their (R, K) each, as one (B, T, K); the pad token where mask is not."""
    width = max(kept.shape[1] for _, kept in supports)
    stacked = supports[0][1].new_full((*mask.shape, width), -1)
    stacked[..., 0].masked_fill_(~mask, pad_id)
    for step, (rows, kept) in enumerate(supports):
        stacked[rows, step, : kept.shape[1]] = kept
    return stacked
