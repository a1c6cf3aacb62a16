"""Sampling: completions by a (behaviour) policy, with the log-probability of each token as it was sampled.

Deviations from a general text generator, on purpose:
- one uniform number per sequence and step, drawn from the given generator: the same seed gives the same text;
- log-probabilities are those of the distribution that was sampled from: after temperature, top-k and top-p;
- if top-k or top-p cut the distribution, the kept tokens of each step are part of the rollout, so that another model's
  probabilities can be renormalised on them: the ratio of the two then has mean 1 at every step;
- a prompt is read once for all completions of its group, and a completion that has ended costs nothing
  (`engine/decoder.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.core.rollout import Rollout
from nested_reft.engine.decoder import Decoder, make_decoder
from nested_reft.engine.layer_weights import RolloutWeights
from nested_reft.engine.lengths import check_call_length
from nested_reft.engine.tensors import upcast

BLOCK = 1024  # columns


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
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    part: tuple[int, int] | None = None,
    weights: RolloutWeights | None = None,
) -> Rollout:
    """Sample `group_size` completions per prompt, and keep the log-probability of each token as it was sampled.

    Temperature comes first; then `top_k` keeps that many of the most probable tokens; then `top_p` keeps the fewest of
    the most probable of those whose probability, renormalised after top_k, reaches top_p (always at least one). This is
    the order of transformers' warpers. Of equally probable tokens the lower id comes first, so that never more than
    top_k are kept (transformers keeps all that tie with the last).

    Args:
        model: used as it is; for a nested rollout pass a nested view.
        prompt_ids: (P, S) token ids, left-padded, on the model's device.
        prompt_mask: (P, S), true for the prompts' own tokens, likewise.
        group_size: G, completions per prompt.
        max_new_tokens: T, at which a completion is cut.
        temperature: 0 is greedy, with logp 0, since the choice is certain.
        top_k: so many of the most probable tokens are kept; None, or the whole vocabulary, cuts nothing.
        top_p: the probability that the kept tokens reach; None, or 1.0, cuts nothing. Greedy ignores both.
        end_ids: a completion ends with the first of these; empty: it never ends before `max_new_tokens`.
        pad_id: what `tokens` holds after the end.
        generator: of the random numbers, on the model's device; None for torch's global one. With one per prompt, the
            completions of a prompt do not depend on which prompts are sampled together with it.
        part: (first, all): these prompts are those from number `first` on in a batch of `all`, and get the random
            numbers that they would get there. None: they are the batch.
        weights: the precision of the rollout, and matrices that an earlier one has made; keep it until the next update.
            None: the model's own precision, and matrices for this call only.

    Returns:
        A rollout of B = P * G completions; see `Rollout` for shapes and types.

    Raises:
        ValueError: temperature < 0, top_k < 1, top_p outside (0, 1], prompts that are empty or padded on the right, or
            weights in int8 for an architecture that `llama.why_unsupported` refuses.
        LengthError: prompt and new tokens are more than `engine.lengths.exact_limit` of the model.
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
    check_call_length(model, lambda: int(prompt_mask.sum(-1).max()) + max_new_tokens)
    weights = weights or RolloutWeights()
    with weights.autocast(model):
        decoder = make_decoder(model, weights)
        logits = upcast(decoder.start(prompt_ids, prompt_mask, group_size, max_new_tokens))
        logits = logits.repeat_interleave(group_size, dim=0)
        # One for every row and step, used or not, so that a completion does not depend on when another one ends.
        first, num_prompts = part or (0, len(prompt_ids))

        def numbers(prompts: int, source: torch.Generator | None) -> Tensor:
            shape = (max_new_tokens, prompts, group_size)
            return torch.rand(shape, generator=source, dtype=logits.dtype, device=logits.device)

        if isinstance(generator, Sequence):
            uniform = torch.cat([numbers(1, source) for source in generator], dim=1).flatten(1)
        else:
            uniform = numbers(num_prompts, generator)[:, first : first + len(prompt_ids)].flatten(1)

        def choose(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
            return _next_tokens(logits, uniform, temperature, top_k, top_p)

        steps = _decode(decoder, logits, uniform, choose, end_ids)
    tokens, mask, logp = _by_row(steps, len(prompt_ids) * group_size, pad_id)
    return Rollout(prompt_ids, prompt_mask, tokens, mask, logp, _stack(steps, mask, pad_id))


@dataclass(frozen=True)
class _Step:
    """A step's rows (R,), their tokens (R,) and log-probabilities (R,), and what they were sampled from (R, K) if top-k
    or top-p cut something off.
    """

    rows: Tensor
    tokens: Tensor
    logp: Tensor
    support: Tensor | None


def _decode(
    decoder: Decoder,
    logits: Tensor,
    uniform: Tensor,
    choose: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]],
    end_ids: Collection[int],
) -> list[_Step]:
    """The steps of a rollout, from the logits (B, V) of its first tokens and uniform numbers (T, B)."""
    ends = torch.tensor(sorted(end_ids), dtype=torch.long, device=logits.device)
    active = torch.arange(len(logits), device=logits.device)  # rows that have not ended
    steps: list[_Step] = []
    for numbers in uniform:
        token, logp, support = choose(logits, numbers[active])
        steps.append(_Step(active, token, logp, support))
        going = (token.unsqueeze(-1) != ends).all(-1)
        if len(steps) == len(uniform) or not going.any():
            break
        if not going.all():
            rows = going.nonzero().squeeze(-1)
            active, token = active[rows], token[rows]
            decoder.keep(rows)
        logits = upcast(decoder.step(token))
    return steps


def _next_tokens(
    logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Tokens and log-probabilities (R,) sampled from logits (R, V); their support (R, K) if something is cut off."""
    if temperature == 0:
        return logits.argmax(-1), logits.new_zeros(len(logits)), None
    scaled = logits if temperature == 1 else logits / temperature
    if (top_k is None or top_k >= logits.shape[-1]) and (top_p is None or top_p == 1):
        return *_choose(scaled, uniform), None
    kept, log_probs = _truncate(scaled, top_k, top_p)
    rank, logp = _choose(log_probs, uniform)
    # A row of nan has no rank; its logp is nan, but its token must still be one that the model can read.
    return kept.gather(-1, rank.unsqueeze(-1)).squeeze(-1).clamp_min(0), logp, kept.int()


def _by_row(steps: Sequence[_Step], num_rows: int, pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, mask and log-probabilities (B, T) of T steps."""
    rows, chosen, logps = (torch.cat(parts) for parts in zip(*((s.rows, s.tokens, s.logp) for s in steps), strict=True))
    shape, device = (num_rows, len(steps)), rows.device
    columns = torch.cat([torch.full_like(step.rows, number) for number, step in enumerate(steps)])
    tokens = torch.full(shape, pad_id, dtype=torch.long, device=device)
    mask = torch.zeros(shape, dtype=torch.bool, device=device)
    logp = torch.zeros(shape, dtype=logps.dtype, device=device)
    tokens[rows, columns], mask[rows, columns], logp[rows, columns] = chosen, True, logps
    return tokens, mask, logp


def _choose(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Choose a column of each row of logits (R, V) by its uniform number (R,): columns and log-probabilities (R,).
    The logits are overwritten: over a large vocabulary, memory for another copy costs more than what is computed.

    A long row is searched in two steps, first for a block of columns, then within it: the cumulative sum over a large
    vocabulary is slow, and inexact in float32.
    """
    shifted, width = logits.sub_(logits.amax(-1, keepdim=True)), logits.shape[-1]
    if width <= BLOCK:
        column, cumulative, _ = _search(shifted.exp(), uniform)
    else:
        weights = shifted.new_empty(len(shifted), -(-width // BLOCK) * BLOCK)
        torch.exp(shifted, out=weights[:, :width])
        weights[:, width:] = 0
        blocks = weights.view(len(weights), -1, BLOCK)
        of_blocks = blocks.sum(-1)
        block, cumulative, wanted = _search(of_blocks, uniform)
        # How far into the block's weight that is, from 0 to 1.
        within = 1 - (cumulative.gather(-1, block) - wanted) / of_blocks.gather(-1, block)
        uniform, block = within.clamp(0, 1).squeeze(-1), block.squeeze(-1)
        column, _, _ = _search(blocks[torch.arange(len(blocks), device=block.device), block], uniform)
        column = (block.unsqueeze(-1) * BLOCK + column).clamp_max(width - 1)
    return column.squeeze(-1), shifted.gather(-1, column).squeeze(-1) - cumulative[:, -1].log()


def _search(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The column (R, 1) at which the cumulative sum (R, V) of each row of weights passes uniform (R,) times the total,
    the cumulative sum, and that product (R, 1).
    """
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    # Below the total, however it is rounded; `right` then finds a column, and never one of weight 0.
    wanted = torch.minimum(uniform.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
    column = torch.searchsorted(cumulative, wanted, right=True).clamp_max(weights.shape[-1] - 1)  # nan has none
    return column, cumulative, wanted


def _truncate(scaled: Tensor, top_k: int | None, top_p: float | None) -> tuple[Tensor, Tensor]:
    """What top_k and then top_p keep of the logits after temperature (R, V): token ids and log-probabilities (R, K).

    The most probable come first; K is the most that any row keeps; rows that keep fewer are filled with -1 and -inf.
    """
    ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
    ordered, ids = ordered[:, :top_k], ids[:, :top_k]
    probs = torch.softmax(ordered, dim=-1)
    # A token that can never be sampled is not in the support: the ratio would miss the other model's share of it.
    kept = probs > 0
    if top_p is not None and top_p < 1:
        before = F.pad(probs.cumsum(-1)[:, :-1], (1, 0))
        kept &= before < top_p
    kept[:, 0] = True
    width = int(kept.sum(-1).max())
    kept, ordered, ids = kept[:, :width], ordered[:, :width], ids[:, :width]
    return ids.masked_fill(~kept, -1), torch.log_softmax(ordered.masked_fill(~kept, -torch.inf), dim=-1)


def _stack(steps: Sequence[_Step], mask: Tensor, pad_id: int) -> Tensor | None:
    """The supports of all steps as one (B, T, K), the pad token where mask is false; None if nothing was cut off."""
    supports = [(step.rows, step.support) for step in steps if step.support is not None]
    if not supports:
        return None
    width = max(kept.shape[1] for _, kept in supports)
    stacked = supports[0][1].new_full((*mask.shape, width), -1)
    stacked[..., 0].masked_fill_(~mask, pad_id)
    for column, (rows, kept) in enumerate(supports):
        stacked[rows, column, : kept.shape[1]] = kept
    return stacked
