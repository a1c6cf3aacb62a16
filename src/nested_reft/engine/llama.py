"""The forward pass of a Llama-like model on packed tokens: no padding goes through a layer.

It computes what the model's own forward computes, with the model's own weights, in fewer and larger operations. The
caller provides the attention function, which depends on how its tokens are laid out. If `why_unsupported` finds a
reason, use the model's own forward.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from nested_reft.core.layers import decoder_layers
from nested_reft.engine.layer_weights import LayerWeights, Norm, RolloutWeights, layer_weights, matrix_dtype, norm_of

LAYERS = {"LlamaDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}
NORMS = {"LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"}
WITHOUT_BIAS = ("o_proj", "gate_proj", "up_proj", "down_proj")

# (number of the layer, query (N, heads, width), key and value (N, key-value heads, width)) -> (N, heads * width).
AttentionFn: TypeAlias = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def why_unsupported(model: PreTrainedModel) -> str | None:
    """Why `PackedModel` would not compute what `model` computes; None if it does."""
    config = model.config
    unknown = {type(layer).__name__ for layer in decoder_layers(model)} - LAYERS
    for name, part in model.base_model.named_modules():
        if part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part):
            return f"{name or 'the model'} has a hook, or a forward that is not its class's"
        if name.endswith("_proj") and (type(part) is not nn.Linear or not isinstance(part.weight, nn.Parameter)):
            unknown.add(type(part).__name__)  # an adapter, or quantised weights
        if name.endswith(WITHOUT_BIAS) and getattr(part, "bias", None) is not None:
            return f"{name} has a bias"
        if name.endswith("norm") and type(part).__name__ not in NORMS:
            unknown.add(type(part).__name__)
    if unknown:
        return f"it has modules of type {', '.join(sorted(unknown))}"
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return "it has layers without full attention"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    if model.training and config.attention_dropout:
        return "it drops attention weights"
    return None


class PackedModel:
    """The model's layers, valid as long as its weights do not change. Differentiable.

    Under autocast, matrices have its dtype, as in the model's own forward; hidden states and norms keep the weights'.
    With activation checkpointing enabled and the layers in training mode, the backward pass recomputes the layers.
    """

    def __init__(self, model: PreTrainedModel, weights: RolloutWeights | None = None) -> None:
        """`weights`: for rollouts, those of an earlier one, or their precision; without a gradient."""
        self._base: Any = model.base_model
        self._head = model.get_output_embeddings()
        self._heads: int = model.config.num_attention_heads
        self._kv_heads: int = model.config.num_key_value_heads
        self._head_width: int = self._base.layers[0].self_attn.head_dim
        self._weights = weights
        self._dtype = weights.dtype(model) if weights else matrix_dtype(model)
        self._recompute = torch.is_grad_enabled() and any(
            layer.training and getattr(layer, "gradient_checkpointing", False) for layer in self._base.layers
        )

    def rotations(self, position_ids: Tensor) -> Tensor:
        """What the rotary embedding multiplies heads at these positions (N,) by: complex, (N, 1, width / 2)."""
        weight = self._base.embed_tokens.weight  # of hidden states it reads type and device only
        cos, sin = self._base.rotary_emb(weight, position_ids.unsqueeze(0))  # (1, N, width), the same in both halves
        half, wide = self._head_width // 2, torch.promote_types(weight.dtype, torch.float32)
        return torch.complex(cos[0, :, None, :half].to(wide), sin[0, :, None, :half].to(wide))

    def forward(self, ids: Tensor, rotation: Tensor, attention_fn: AttentionFn) -> Tensor:
        """Hidden states (N, D) of N tokens with their `rotations`, after the last layer and its norm."""
        hidden = self._base.embed_tokens(ids)
        layer_forward = self._layer_forward
        if self._recompute:
            layer_forward = partial(checkpoint, self._layer_forward, use_reentrant=False)
        for number in range(len(self._base.layers)):
            hidden = layer_forward(number, hidden, rotation, attention_fn)
        return _norm(hidden, norm_of(self._base.norm))

    def _layer_forward(self, number: int, hidden: Tensor, rotation: Tensor, attention_fn: AttentionFn) -> Tensor:
        """Hidden states (N, D) after layer `number`, given those before it; rotation: (N, 1, width / 2)."""
        layer = self._layer(number)
        qkv = layer.qkv(_norm(hidden, layer.norms[0]))
        heads = qkv.view(len(hidden), -1, self._head_width)
        # Queries and keys, and values; `split`, since the gradient of each slice would be as large as the whole.
        pair, value = torch.split(heads, [self._heads + self._kv_heads, self._kv_heads], dim=1)
        sides = [self._heads, self._kv_heads]
        if layer.head_norms is not None:
            parts = zip(torch.split(pair, sides, dim=1), layer.head_norms, strict=True)
            pair = torch.cat([_norm(part, norm) for part, norm in parts], dim=1)
        query, key = torch.split(_rotate(pair, rotation), sides, dim=1)
        seen = attention_fn(number, query, key, value)
        hidden = layer.out.add(seen, hidden)
        normed = _norm(hidden, layer.norms[1])
        return layer.down.add(layer.up.times(normed, layer.gate.silu(normed)), hidden)

    def _layer(self, number: int) -> LayerWeights:
        """A layer's weights. A graph's are made here, layer by layer: the backward pass goes through its operations
        from the last to the first, and would keep the gradients of all layers until it reached those that made them.
        """
        layer = self._base.layers[number]
        return self._weights.layer(layer, self._dtype) if self._weights else layer_weights(layer, self._dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, V) of hidden states (N, D)."""
        if self._weights:
            return self._weights.head(self._head, self._dtype)(hidden)
        logits: Tensor = self._head(hidden)
        return logits

    def additive_mask(self, visible: Tensor) -> Tensor:
        """The mask that `attention` takes, from visible (rows, length, keys): true where a token sees a key."""
        group = self._heads // self._kv_heads
        hidden = ~visible.unsqueeze(2).expand(-1, -1, group, -1).flatten(1, 2).unsqueeze(1)
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=hidden.device)
        return mask.masked_fill_(hidden, -torch.inf)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention of query (rows, length, heads, width) to key and value (rows, keys, key-value heads, width).

    Heads that share keys and values are not repeated; they are further queries, as in `mask`, which
    `PackedModel.additive_mask` made. Returns (rows, length, heads * width).
    """
    rows, length, heads, width = query.shape
    shared = key.shape[2]
    query = query.view(rows, length, shared, heads // shared, width).transpose(1, 2).flatten(2, 3)
    seen = F.scaled_dot_product_attention(query, key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask)
    return seen.view(rows, shared, length, heads // shared, width).transpose(1, 2).flatten(2)


def _norm(hidden: Tensor, norm: Norm) -> Tensor:
    weight, epsilon = norm
    return F.rms_norm(hidden, hidden.shape[-1:], weight.to(hidden.dtype), epsilon)


def _rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """The rotary embedding of interleaved heads (N, H, width) by rotation (N, 1, width / 2), as one complex product."""
    pairs = torch.view_as_complex(heads.to(rotation.real.dtype).view(*heads.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(heads.dtype)
