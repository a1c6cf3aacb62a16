"""Rollouts: completions sampled from a (behaviour) policy, with the log-probability of each token as it was sampled.

Deviations from a general text generator, on purpose:
- one uniform number a sequence and step, drawn from a generator of our own: the same seed gives the same text;
- log-probabilities are those of the distribution that was sampled from: after temperature, top-k and top-p;
- where top-k or top-p cut the distribution, the kept tokens of each step are part of the rollout, so that another
  model's probabilities can be renormalised on them: the ratio of the two then has mean 1 at every step;
- a prompt is read once and its keys and values are repeated for the group's completions.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel


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


def positions(mask: Tensor) -> Tensor:
    """Position of each token, counted from the first that the mask (rows, length) lets through."""
    return (mask.long().cumsum(-1) - 1).clamp_min(0)


def prefill(model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor, group_size: int) -> tuple[Tensor, Cache]:
    """Read each prompt once: logits of the next token (B, V) and the cache, both repeated for the G completions."""
    cache = DynamicCache(config=model.config)
    output = model(
        input_ids=prompt_ids, attention_mask=prompt_mask, position_ids=positions(prompt_mask),
        past_key_values=cache, use_cache=True, logits_to_keep=1,
    )  # fmt: skip
    cache.batch_repeat_interleave(group_size)
    return output.logits[:, -1].repeat_interleave(group_size, dim=0), cache


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
) -> Rollout:
    """Write `group_size` completions per prompt; temperature 0 is greedy (with logp 0: the choice is certain).

    prompt_ids, prompt_mask: (P, S), left-padded. A completion ends with the first of `end_ids` (empty: never) or
    after `max_new_tokens`. The model is used as it is; for a nested rollout pass a nested view.

    Temperature comes first; then `top_k` keeps that many of the most probable tokens; then `top_p` keeps the fewest of
    the most probable of those whose probability, renormalised after top_k, reaches top_p (always one at least). It is
    the order of transformers' warpers. Of equally probable tokens the lower id comes first, so that never more than
    top_k are kept (transformers keeps all that tie with the last). top_p 1 and top_k of the vocabulary or more cut
    nothing; greedy ignores both. Raises ValueError for temperature < 0, top_k < 1 or top_p outside (0, 1].
    """
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    if prompt_ids.shape != prompt_mask.shape:
        raise ValueError(f"prompt_ids {tuple(prompt_ids.shape)} and prompt_mask {tuple(prompt_mask.shape)} differ")
    rows, device = prompt_ids.shape[0] * group_size, prompt_ids.device
    ends = torch.tensor(sorted(end_ids), dtype=torch.long, device=device)
    tokens = torch.full((rows, max_new_tokens), pad_id, dtype=torch.long, device=device)
    mask = torch.zeros((rows, max_new_tokens), dtype=torch.bool, device=device)
    attention = torch.cat((prompt_mask.bool(), torch.ones_like(prompt_mask[:, :1], dtype=torch.bool)), dim=1)
    attention = attention.repeat_interleave(group_size, dim=0)
    position = prompt_mask.long().sum(-1, keepdim=True).repeat_interleave(group_size, dim=0)

    logits, cache = prefill(model, prompt_ids, prompt_mask, group_size)
    logp = torch.zeros((rows, max_new_tokens), dtype=_wide(logits).dtype, device=device)
    supports: list[Tensor] = []
    running = torch.ones(rows, dtype=torch.bool, device=device)
    for step in range(max_new_tokens):
        wide = _wide(logits)
        if temperature == 0:
            token, token_logp = wide.argmax(-1), torch.zeros_like(wide[:, 0])
        elif (top_k is None or top_k >= wide.shape[-1]) and (top_p is None or top_p == 1):
            token, token_logp = _choose(torch.log_softmax(wide / temperature, dim=-1), generator)
        else:
            kept, log_probs = _truncate(wide / temperature, top_k, top_p, running)
            rank, token_logp = _choose(log_probs, generator)
            # A row of nan has no rank; its logp is nan, and its token must still be one that the model can read.
            token = kept.gather(-1, rank.unsqueeze(-1)).squeeze(-1).clamp_min(0)
            kept[:, 0] = torch.where(running, kept[:, 0], pad_id)
            supports.append(kept.int())
        tokens[:, step] = torch.where(running, token, pad_id)
        logp[:, step] = torch.where(running, token_logp, 0.0)
        mask[:, step] = running
        running = running & ~torch.isin(token, ends)
        if step + 1 == max_new_tokens or not running.any():
            break
        output = model(
            input_ids=tokens[:, step : step + 1], attention_mask=attention, position_ids=position + step,
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        logits = output.logits[:, -1]
        attention = torch.cat((attention, torch.ones_like(attention[:, :1])), dim=1)
    length = step + 1
    support = _stack(supports) if supports else None
    return Rollout(prompt_ids, prompt_mask, tokens[:, :length], mask[:, :length], logp[:, :length], support)


def _wide(logits: Tensor) -> Tensor:
    """The logits in float64 where they are, in float32 otherwise: half types have too few digits for a ratio."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _choose(log_probs: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """A column of each row of log_probs (B, V), by inverting the cumulative distribution, and its entry: (B,) each."""
    cumulative = log_probs.exp().cumsum(-1)
    # Scaled by the last entry, which rounding leaves near but not at 1; `right` never takes a token of probability 0.
    uniform = torch.rand((log_probs.shape[0], 1), generator=generator, dtype=log_probs.dtype, device=log_probs.device)
    uniform = uniform * cumulative[:, -1:]
    column = torch.searchsorted(cumulative, uniform, right=True).clamp_max(log_probs.shape[-1] - 1)
    return column.squeeze(-1), log_probs.gather(-1, column).squeeze(-1)


def _truncate(scaled: Tensor, top_k: int | None, top_p: float | None, running: Tensor) -> tuple[Tensor, Tensor]:
    """What top_k and then top_p keep of the logits after temperature (B, V): token ids and log-probabilities (B, K).

    The most probable first; -1 and -inf where a row keeps fewer than K. Rows that have ended keep one token, so that
    K is the most that a row of `running` (B,) keeps.
    """
    ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
    ordered, ids = ordered[:, :top_k], ids[:, :top_k]
    probs = torch.softmax(ordered, dim=-1)
    # A token that can never be sampled is not in the support: the other model's share of it would be lost to the ratio.
    kept = probs > 0
    if top_p is not None and top_p < 1:
        before = torch.nn.functional.pad(probs.cumsum(-1)[:, :-1], (1, 0))
        kept &= before < top_p
    kept[:, 1:] &= running.unsqueeze(-1)
    kept[:, 0] = True
    width = int(kept.sum(-1).max())
    kept, ordered, ids = kept[:, :width], ordered[:, :width], ids[:, :width]
    return ids.masked_fill(~kept, -1), torch.log_softmax(ordered.masked_fill(~kept, -torch.inf), dim=-1)


def _stack(supports: list[Tensor]) -> Tensor:
    """The supports of all steps, (B, K of the step) each, as one (B, T, K) with -1 where a step kept fewer."""
    rows, width = supports[0].shape[0], max(support.shape[1] for support in supports)
    stacked = supports[0].new_full((rows, len(supports), width), -1)
    for step, support in enumerate(supports):
        stacked[:, step, : support.shape[1]] = support
    return stacked


def completion_logp(model: PreTrainedModel, rollout: Rollout, temperature: float) -> Tensor:
    """log pi of a rollout's tokens under `model` after `temperature`: (B, T), 0 where the mask is false.

    Where the rollout has a support, pi is renormalised on it: log pi(o) - log sum over v in support of pi(v), and -inf
    for a token that is not in it. float64 for a float64 model, float32 for every other. Differentiable. The prompt is
    read once for the group, as in sampling: its graph is shared by the completions.
    """
    first_logits, cache = prefill(model, rollout.prompt_ids, rollout.prompt_mask, rollout.group_size)
    mask = rollout.mask
    prompt_mask = rollout.prompt_mask.bool().repeat_interleave(rollout.group_size, dim=0)
    parts = [first_logits.unsqueeze(1)]
    if mask.shape[1] > 1:
        full_mask = torch.cat((prompt_mask, mask[:, :-1]), dim=1)
        output = model(
            input_ids=rollout.tokens[:, :-1], attention_mask=full_mask,
            position_ids=positions(full_mask)[:, prompt_mask.shape[1] :], past_key_values=cache, use_cache=True,
        )  # fmt: skip
        parts.append(output.logits)
    if rollout.support is not None:
        return _supported_logp(parts, rollout.tokens, rollout.support, mask, temperature) * mask
    log_probs = torch.log_softmax(_wide(torch.cat(parts, dim=1)) / temperature, dim=-1)
    logp = log_probs.gather(-1, rollout.tokens.unsqueeze(-1)).squeeze(-1)
    return logp * mask


def _supported_logp(parts: list[Tensor], tokens: Tensor, support: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Log-probability (B, T) of the tokens, renormalised on support (B, T, K), from the logits in parts along T.

    Only (B, T, K) is taken from the logits, before any change of type: no further (B, T, V) is made. The token is
    looked up among the K, rather than taken from the logits a second time: its gradient (1 - p) / temperature is then
    one number when it is rounded to the logits' type, not the difference of two that were.
    """
    absent = support < 0
    indices = torch.split(support.clamp_min(0).long(), [part.shape[1] for part in parts], dim=1)
    gathered = torch.cat([part.gather(-1, index) for part, index in zip(parts, indices, strict=True)], dim=1)
    scaled = _wide(gathered) / temperature
    # A step with nothing in its support is nan here; the fill below takes it out, and this one takes out its gradient.
    log_probs = torch.log_softmax(scaled.masked_fill(absent, -torch.inf), dim=-1)
    other = support != tokens.unsqueeze(-1)
    logp = log_probs.masked_fill(other, 0.0).sum(-1)
    return logp.masked_fill(other.all(-1) & mask, -torch.inf)
