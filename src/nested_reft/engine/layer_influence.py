"""How much each layer matters, by two measures, for the layer selections that read them.

Block influence is what a layer does to the residual stream, ablation influence what leaving it out does to the next
token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from nested_reft.core.layer_selection import SELECTIONS
from nested_reft.core.layers import decoder_layers, nested_view
from nested_reft.engine.tensors import position_ids, upcast

LOGITS = 2**25  # of one forward pass at most, of which a few tensors exist at once: 128 MB each in float32


@torch.no_grad()
def layer_influence(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Block influence of each layer (ShortGPT, Men et al. 2024): (L,) float64, on the CPU.

    1 - the mean, over the real tokens, of the cosine between the residual stream before and after the layer: 0 for a
    layer that changes nothing, at most 2. One forward pass without the language-model head, in evaluation mode; the
    model is left as it was.

    Args:
        model: a causal language model.
        input_ids: (P, S), left-padded, on the model's device.
        attention_mask: (P, S), true for real tokens.

    Raises:
        ValueError: the two shapes differ, or all tokens are padding.
    """
    real = _real_tokens(input_ids, attention_mask)
    influences: list[Tensor] = []

    def record(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        before = args[0] if args else kwargs["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        cosine = F.cosine_similarity(before[real].double(), after[real].double(), dim=-1)
        influences.append(1 - cosine.mean())

    # A view of all layers has its own hooks and mode: nothing is left on the target, whatever happens in forward.
    view = nested_view(model, ()).eval()
    for layer in decoder_layers(view):
        layer.register_forward_hook(record, with_kwargs=True)
    view.base_model(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids(real), use_cache=False
    )
    return torch.stack(influences).cpu()


@torch.no_grad()
def ablation_influence(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Ablation influence of each layer: (L,) float64 in nats per token, on the CPU.

    KL(b || pi) of the next token at temperature 1, b being the model without this layer and pi the whole model: the sum
    over v of b(v) (log b(v) - log pi(v)), exact over the vocabulary, and its mean over the real tokens of the given
    text. 0 for a layer that changes nothing. It is the direction of the KL that training logs, whose tokens b writes;
    here the text is given. In evaluation mode; the model is left as it was.

    L + 1 forward passes over the text, in parts with at most `LOGITS` logits: memory does not grow with the text. A row
    with more is computed whole for each of its parts.

    Args:
        model: a causal language model with two layers or more.
        input_ids: (P, S), left-padded, on the model's device.
        attention_mask: (P, S), true for real tokens.

    Raises:
        ValueError: the two shapes differ, all tokens are padding, or `nested_view` cannot leave out a layer.
    """
    real = _real_tokens(input_ids, attention_mask)
    target = nested_view(model, ()).eval()
    views = [nested_view(model, (layer,)).eval() for layer in range(len(decoder_layers(model)))]
    total = torch.zeros(len(views), dtype=torch.float64)
    for rows, columns in _parts(real, LOGITS // model.config.vocab_size):
        text = input_ids[rows], real[rows], columns
        log_pi = _next_token_log_probs(target, *text)  # (N, V)
        for layer, view in enumerate(views):
            log_b = _next_token_log_probs(view, *text)
            total[layer] += (log_b.exp() * (log_b - log_pi)).sum(-1).double().sum().cpu()
    return total / int(real.sum())


def influence_of(
    strategy: str, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, ablation: Tensor | None
) -> Callable[[], Tensor] | None:
    """What `choose_skipped_layers` reads for a strategy; None if it reads nothing, or what it reads was not measured.

    Args:
        strategy: a key of `SELECTIONS`.
        model: the model as it is now, for block influence.
        input_ids: (P, S), the batch's prompts, left-padded, likewise.
        attention_mask: (P, S), true for real tokens, likewise.
        ablation: (L,), the ablation influence that was measured before; None without.
    """
    match SELECTIONS[strategy].influence_kind:
        case "block":
            return partial(layer_influence, model, input_ids, attention_mask)
        case "ablation" if ablation is not None:
            return lambda: ablation
    return None


def _real_tokens(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The mask (P, S) as bool, checked."""
    if input_ids.ndim != 2 or input_ids.shape != attention_mask.shape:
        raise ValueError(
            f"input_ids and attention_mask must both be (P, S), got {tuple(input_ids.shape)} and "
            f"{tuple(attention_mask.shape)}"
        )
    real = attention_mask.bool()
    if not real.any():
        raise ValueError("attention_mask has no real token")
    return real


def _parts(real: Tensor, positions: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows, and columns of theirs, that hold all real tokens (P, S) once: at most `positions` in a part, at least one.

    Rows of like length go together, and columns in which all of them are padding are left out.
    """
    positions = max(positions, 1)
    for rows in torch.split(real.sum(-1).argsort(stable=True), max(positions // real.shape[1], 1)):
        for columns in torch.split(real[rows].any(0).nonzero().flatten(), positions):
            yield rows, columns


def _next_token_log_probs(model: PreTrainedModel, input_ids: Tensor, real: Tensor, columns: Tensor) -> Tensor:
    """log-probabilities (N, V) of the token after each of the N real tokens (rows, S) in the given columns."""
    first = int(real.any(0).nonzero()[0]) if real.any() else 0
    ids, mask = input_ids[:, first:], real[:, first:]
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position_ids(mask),
        use_cache=False,
        logits_to_keep=columns - first,
    ).logits
    return torch.log_softmax(upcast(logits[real[:, columns]]), dim=-1)
