"""Rollouts: completions sampled from a (behaviour) policy, with the log-probability of each token as it was sampled.

Deviations from a general text generator, on purpose:
- one uniform number a sequence and step, drawn from a generator of our own: the same seed gives the same text;
- log-probabilities are those of the distribution that was sampled from: full support, after temperature;
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
    token; logp: (B, T) float32, log b of each token as sampled, 0 where the mask is false.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    tokens: Tensor
    mask: Tensor
    logp: Tensor

    @property
    def group_size(self) -> int:
        """G, the completions per prompt."""
        return self.tokens.shape[0] // self.prompt_ids.shape[0]

    def groups(self, first: int, last: int) -> Rollout:
        """The rollout of prompts `first` to `last - 1` alone."""
        rows = slice(first * self.group_size, last * self.group_size)
        return Rollout(
            self.prompt_ids[first:last], self.prompt_mask[first:last],
            self.tokens[rows], self.mask[rows], self.logp[rows],
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
    end_ids: Collection[int],
    pad_id: int,
    generator: torch.Generator | None = None,
) -> Rollout:
    """Write `group_size` completions per prompt; temperature 0 is greedy (with logp 0: the choice is certain).

    prompt_ids, prompt_mask: (P, S), left-padded. A completion ends with the first of `end_ids` (empty: never) or
    after `max_new_tokens`. The model is used as it is; for a nested rollout pass a nested view.
    """
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")
    if prompt_ids.shape != prompt_mask.shape:
        raise ValueError(f"prompt_ids {tuple(prompt_ids.shape)} and prompt_mask {tuple(prompt_mask.shape)} differ")
    rows, device = prompt_ids.shape[0] * group_size, prompt_ids.device
    ends = torch.tensor(sorted(end_ids), dtype=torch.long, device=device)
    tokens = torch.full((rows, max_new_tokens), pad_id, dtype=torch.long, device=device)
    mask = torch.zeros((rows, max_new_tokens), dtype=torch.bool, device=device)
    logp = torch.zeros((rows, max_new_tokens), dtype=torch.float32, device=device)
    attention = torch.cat((prompt_mask.bool(), torch.ones_like(prompt_mask[:, :1], dtype=torch.bool)), dim=1)
    attention = attention.repeat_interleave(group_size, dim=0)
    position = prompt_mask.long().sum(-1, keepdim=True).repeat_interleave(group_size, dim=0)

    logits, cache = prefill(model, prompt_ids, prompt_mask, group_size)
    running = torch.ones(rows, dtype=torch.bool, device=device)
    for step in range(max_new_tokens):
        token, token_logp = _choose(logits.float(), temperature, generator)
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
    return Rollout(prompt_ids, prompt_mask, tokens[:, :length], mask[:, :length], logp[:, :length])


def _choose(logits: Tensor, temperature: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """A token for each row of logits (B, V) by inverting the cumulative distribution, and its log-probability (B,)."""
    if temperature == 0:
        token = logits.argmax(-1)
        return token, torch.zeros_like(token, dtype=torch.float32)
    log_probs = torch.log_softmax(logits / temperature, dim=-1)
    cumulative = log_probs.exp().cumsum(-1)
    # Scaled by the last entry, which rounding leaves near but not at 1; `right` never takes a token of probability 0.
    uniform = torch.rand((logits.shape[0], 1), generator=generator, device=logits.device) * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, uniform, right=True).clamp_max(logits.shape[-1] - 1)
    return token.squeeze(-1), log_probs.gather(-1, token).squeeze(-1)


def completion_logp(model: PreTrainedModel, rollout: Rollout, temperature: float) -> Tensor:
    """log pi of a rollout's tokens under `model` after `temperature`: (B, T), 0 where the mask is false.

    Differentiable. The prompt is read once for the group, as in sampling: its graph is shared by the completions.
    """
    first_logits, cache = prefill(model, rollout.prompt_ids, rollout.prompt_mask, rollout.group_size)
    mask = rollout.mask
    prompt_mask = rollout.prompt_mask.bool().repeat_interleave(rollout.group_size, dim=0)
    logits = first_logits.unsqueeze(1)
    if mask.shape[1] > 1:
        full_mask = torch.cat((prompt_mask, mask[:, :-1]), dim=1)
        output = model(
            input_ids=rollout.tokens[:, :-1], attention_mask=full_mask,
            position_ids=positions(full_mask)[:, prompt_mask.shape[1] :], past_key_values=cache, use_cache=True,
        )  # fmt: skip
        logits = torch.cat((logits, output.logits), dim=1)
    log_probs = torch.log_softmax(logits.float() / temperature, dim=-1)
    logp = log_probs.gather(-1, rollout.tokens.unsqueeze(-1)).squeeze(-1)
    return logp * mask
