"""Block influence: how much each layer changes the residual stream, for the layer selection of that name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from nested_reft.core.layers import decoder_layers, nested_view
from nested_reft.engine.tensors import position_ids


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
    if input_ids.ndim != 2 or input_ids.shape != attention_mask.shape:
        raise ValueError(
            f"input_ids and attention_mask must both be (P, S), got {tuple(input_ids.shape)} and "
            f"{tuple(attention_mask.shape)}"
        )
    real = attention_mask.bool()
    if not real.any():
        raise ValueError("attention_mask has no real token")
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
    )  # fmt: skip
    return torch.stack(influences).cpu()
