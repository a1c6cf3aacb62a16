"""log pi: the log-probability of a rollout's tokens under any policy, differentiable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from nested_reft.core.layers import decoder_layers
from nested_reft.core.rollout import Rollout
from nested_reft.engine.lengths import check_call_length
from nested_reft.engine.llama import PackedModel, attention, why_unsupported
from nested_reft.engine.tensors import position_ids, upcast

MAX_LOGITS = 2**28  # at a time: 1 GB in float32, of which the backward pass needs several copies


def completion_logp(model: PreTrainedModel, rollout: Rollout, temperature: float) -> Tensor:
    """log pi of a rollout's tokens under a model: differentiable, and comparable with the rollout's log b.

    If `PackedModel` can compute the model, the prompt is read once per group, as in sampling: its graph is shared by
    the completions. Every other causal language model is run as it is, on whole sequences.

    Args:
        model: a causal language model of transformers on the rollout's device, usually the target.
        rollout: B = P * G completions of at most T tokens. If it has a support, pi is renormalised on it:
            log pi(o) - log sum over v in support of pi(v).
        temperature: above 0, that of the rollout: logits are divided by it.

    Returns:
        (B, T), in nats; 0 where the mask is false, -inf for a token that is not in the support. float64 for a float64
        model, float32 for every other.

    Raises:
        LengthError: a prompt and its completion are more than `engine.lengths.exact_limit` of the model.
    """
    check_call_length(model, lambda: _longest(rollout))
    later = _later(rollout)
    support = (None, None) if rollout.support is None else (rollout.support[:, 0], rollout.support[:, 1:][later])
    targets = _Targets(rollout.tokens[:, 1:][later], support[1], temperature)
    first, rest_logp = (_by_model if why_unsupported(model) else _by_packed_model)(model, rollout, targets)
    first = first.repeat_interleave(rollout.group_size, dim=0)
    first_logp = _token_logp(first, rollout.tokens[:, 0], support[0], temperature) * rollout.mask[:, 0]
    grid = first_logp.new_zeros(later.shape).masked_scatter(later, rest_logp)
    return torch.cat((first_logp.unsqueeze(1), grid), dim=1)


def enable_activation_checkpointing(model: PreTrainedModel) -> None:
    """Gradient checkpointing: activations inside a layer are computed again in the backward pass, not kept.

    Sample from a view of the model in evaluation mode: a layer that computes twice keeps no cache.
    """
    # The versions of transformers that vLLM accepts have it by its old name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.disable_input_require_grads()  # a hook that only the re-entrant kind needs
    for layer in decoder_layers(model):
        layer.training = True  # the layer, not its parts: log pi is that of a policy without dropout


def _longest(rollout: Rollout) -> int:
    """Tokens of the longest prompt with its completion."""
    prompts = rollout.prompt_mask.sum(-1).repeat_interleave(rollout.group_size)
    return int((prompts + rollout.mask.sum(-1)).max())


def _later(rollout: Rollout) -> Tensor:
    """(B, T - 1): which tokens after the first are real. Index t is token t + 1, predicted from token t."""
    return rollout.mask[:, 1:]


@dataclass(frozen=True)
class _Targets:
    """All tokens (N,) but the first ones, and their support (N, K) if there is one."""

    tokens: Tensor
    support: Tensor | None
    temperature: float

    def logp(self, logits: Tensor) -> Tensor:
        """log pi (N,) by logits (N, V)."""
        return _token_logp(logits, self.tokens, self.support, self.temperature)

    def logp_in_pieces(self, head: Callable[[Tensor], Tensor], hidden: Tensor, rows: int) -> Tensor:
        """The same by hidden states (N, D), with the logits of so many rows at a time, which are computed once more in
        the backward pass.
        """

        def of_piece(hidden: Tensor, tokens: Tensor, support: Tensor | None) -> Tensor:
            return _token_logp(head(hidden), tokens, support, self.temperature)

        parts = [torch.split(hidden, rows), torch.split(self.tokens, rows)]
        supports = repeat(None, len(parts[0])) if self.support is None else torch.split(self.support, rows)
        pieces = zip(*parts, supports, strict=True)
        return torch.cat([checkpoint(of_piece, *piece, use_reentrant=False) for piece in pieces])


def _token_logp(logits: Tensor, tokens: Tensor, support: Tensor | None, temperature: float) -> Tensor:
    """log pi (N,) of tokens (N,), one for each of logits (N, V), renormalised on the support (N, K) if there is one.

    With a support, no other (N, V) is made. The token is looked up among the K, rather than taken from the logits
    again: its gradient (1 - p) / temperature is then one number when it is rounded to the logits' type, not the
    difference of two rounded ones.
    """
    if support is None:
        log_probs = torch.log_softmax(upcast(logits) / temperature, dim=-1)
        return log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    scaled = upcast(logits.gather(-1, support.clamp_min(0).long())) / temperature
    log_probs = torch.log_softmax(scaled.masked_fill(support < 0, -torch.inf), dim=-1)
    other = support != tokens.unsqueeze(-1)
    return log_probs.masked_fill(other, 0.0).sum(-1).masked_fill(other.all(-1), -torch.inf)


def _by_model(model: PreTrainedModel, rollout: Rollout, targets: _Targets) -> tuple[Tensor, Tensor]:
    """Logits of each prompt's first token (P, V), and log pi of the targets (N,), by the model's own forward.

    One pass over whole sequences without a cache, which is what anything wrapped around a model's layers expects.
    """
    later, group_size = _later(rollout), rollout.group_size
    prompt_ids, prompt_mask = (
        part.repeat_interleave(group_size, dim=0) for part in (rollout.prompt_ids, rollout.prompt_mask.bool())
    )
    mask = torch.cat((prompt_mask, later), dim=1)
    output = model(
        input_ids=torch.cat((prompt_ids, rollout.tokens[:, :-1]), dim=1),
        attention_mask=mask,
        position_ids=position_ids(mask),
        use_cache=False,
        logits_to_keep=later.shape[1] + 1,
    )
    return output.logits[::group_size, 0], targets.logp(output.logits[:, 1:][later])


def _by_packed_model(model: PreTrainedModel, rollout: Rollout, targets: _Targets) -> tuple[Tensor, Tensor]:
    """The same as `_by_model`, without computing the padding of prompts and completions."""
    packed = PackedModel(model)
    prompt_mask, later, group_size = rollout.prompt_mask.bool(), _later(rollout), rollout.group_size
    (num_prompts, prompt_length), length = prompt_mask.shape, later.shape[1]
    lengths = prompt_mask.sum(-1)
    num_prompt_tokens, num_later = int(lengths.sum()), int(later.sum())
    ids = torch.cat((rollout.prompt_ids[prompt_mask], rollout.tokens[:, :-1][later]))
    steps = torch.arange(length, device=ids.device) + lengths.repeat_interleave(group_size).unsqueeze(1)
    positions = torch.cat((position_ids(prompt_mask)[prompt_mask], steps[later]))
    causal = torch.ones(2 * (prompt_length,), dtype=torch.bool, device=ids.device).tril() & prompt_mask.unsqueeze(1)
    own = torch.ones(2 * (length,), dtype=torch.bool, device=ids.device).tril().expand(len(later), -1, -1)
    seen_prompt = prompt_mask.repeat_interleave(group_size, dim=0).unsqueeze(1).expand(-1, length, -1)
    prompts_see = packed.additive_mask(causal)
    completions_see = packed.additive_mask(torch.cat((seen_prompt, own), dim=-1))

    prompt_slots, later_slots = (mask.flatten().nonzero().squeeze(-1) for mask in (prompt_mask, later))

    def attention_fn(_: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = [torch.split(part, [num_prompt_tokens, num_later]) for part in (query, key, value)]
        own_query, keys, values = (_grid(of_prompts, prompt_slots, prompt_mask) for of_prompts, _ in parts)
        seen = attention(own_query, keys, values, prompts_see).flatten(0, 1)[prompt_slots]
        if not num_later:
            return seen
        own_query, own_keys, own_values = (_grid(of_later, later_slots, later) for _, of_later in parts)
        keys = torch.cat((keys.repeat_interleave(group_size, dim=0), own_keys), dim=1)
        values = torch.cat((values.repeat_interleave(group_size, dim=0), own_values), dim=1)
        return torch.cat((seen, attention(own_query, keys, values, completions_see).flatten(0, 1)[later_slots]))

    hidden = packed.forward(ids, packed.rotations(positions), attention_fn)
    first, rest = hidden[lengths.cumsum(0) - 1], hidden[num_prompt_tokens:]
    rows = max(1, MAX_LOGITS // model.config.vocab_size)
    if len(rest) > rows:
        return packed.logits(first), targets.logp_in_pieces(packed.logits, rest, rows)
    logits = packed.logits(torch.cat((first, rest)))
    return logits[:num_prompts], targets.logp(logits[num_prompts:])


def _grid(heads: Tensor, slots: Tensor, mask: Tensor) -> Tensor:
    """Heads (N, H, W) put into the slots (N,) where mask (rows, length) is true, 0 elsewhere: (rows, length, H, W)."""
    flat = heads.new_zeros(mask.numel(), *heads.shape[1:]).index_copy(0, slots, heads)
    return flat.view(*mask.shape, *heads.shape[1:])
