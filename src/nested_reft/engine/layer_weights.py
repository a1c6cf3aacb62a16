"""A decoder layer's weights as `llama.PackedModel` multiplies by them, and their store for rollouts in a precision."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from nested_reft.engine.matrices import MIN_PACKED, PRECISIONS, Int8Matrix, Matrix, OneDnnMatrix

Norm: TypeAlias = tuple[Tensor, float]  # weight and epsilon
MakeMatrix: TypeAlias = Callable[[Tensor, Tensor | None], Matrix]  # of a matrix (in, out) and a bias (out,) or none


@dataclass(frozen=True)
class LayerWeights:
    """A layer's matrices and norms."""

    qkv: Matrix  # the three projections as one matrix; queries and keys are interleaved
    out: Matrix
    gate: Matrix
    up: Matrix
    down: Matrix
    norms: tuple[Norm, Norm]  # before attention and before the feed-forward part
    head_norms: tuple[Norm, Norm] | None  # of queries and keys


class RolloutWeights:
    """A model's matrices for rollouts in a precision: made when a rollout first needs them, and then kept.

    They serve every nested view of the model, so a new draw of layers costs nothing. They do not follow an update:
    `clear` afterwards, or before, so that they take no memory while it is made.

    Args:
        precision: "float32", "bfloat16" or "int8"; None for that of the model, or of autocast if it is enabled. Layers
            that are not packed (small ones, and all on a GPU) have the model's weights in that type. int8 is for large
            matrices on CPUs; `matrices.why_no_precision` tells whether a device has it. Norms, embeddings and the
            attention itself are not in int8.

    Raises:
        ValueError: there is no such precision.
    """

    def __init__(self, precision: str | None = None) -> None:
        if precision not in (None, *PRECISIONS):
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)} or None, got {precision!r}")
        self.precision = precision
        self._layers: dict[Tensor, LayerWeights] = {}  # by a parameter, which all views of a layer share
        self._heads: dict[Tensor, Matrix] = {}

    def dtype(self, model: Any) -> torch.dtype:
        """The type of the model's matrices that are not in int8, and of keys and values."""
        fixed = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": model.dtype}
        return matrix_dtype(model) if self.precision is None else fixed[self.precision]

    def autocast(self, model: Any) -> AbstractContextManager[None]:
        """The context of a rollout: it is in this precision, whatever surrounds it."""
        if self.precision is None:
            return nullcontext()
        return torch.autocast(model.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def layer(self, layer: Any, dtype: torch.dtype) -> LayerWeights:
        """Those of a decoder layer; `dtype` as given by `dtype`."""
        key = layer.self_attn.o_proj.weight
        if key not in self._layers:
            self._layers[key] = layer_weights(layer, dtype, self._matrix)
        return self._layers[key]

    def head(self, head: Any, dtype: torch.dtype) -> Matrix:
        """That of the LM head."""
        if head.weight not in self._heads:
            bias = None if head.bias is None else head.bias.to(dtype)
            self._heads[head.weight] = self._matrix(head.weight.to(dtype).t(), bias)
        return self._heads[head.weight]

    def clear(self) -> None:
        """Forget all weights: the next rollout takes the model's own, as they are then."""
        self._layers.clear()
        self._heads.clear()

    def _matrix(self, weight: Tensor, bias: Tensor | None) -> Matrix:
        if weight.device.type != "cpu" or weight.numel() < MIN_PACKED:
            return Matrix(weight, bias)
        if self.precision == "int8":
            return Int8Matrix(weight, bias)
        packable = weight.dtype == torch.float32 or (
            weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
        return OneDnnMatrix(weight, bias) if packable else Matrix(weight, bias)


def matrix_dtype(model: Any) -> torch.dtype:
    """The type of a model's matrix products: its own, or that of autocast."""
    device = model.device.type
    dtype: torch.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype
    return dtype


def layer_weights(layer: Any, dtype: torch.dtype, make: MakeMatrix = Matrix) -> LayerWeights:
    """A decoder layer's weights, with matrices of type `dtype` that `make` made. Differentiable if they are."""
    attention, mlp = layer.self_attn, layer.mlp
    width, head_norms = attention.head_dim, None
    if hasattr(attention, "q_norm"):
        query, key = (
            (_interleave_halves(w, width), e) for w, e in (norm_of(attention.q_norm), norm_of(attention.k_norm))
        )
        head_norms = (query, key)

    def joined(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return torch.cat((_interleave_halves(query, width), _interleave_halves(key, width), value)).to(dtype)

    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    bias = None if projections[0].bias is None else joined(*(part.bias for part in projections))
    out, gate, up, down = (
        make(part.weight.to(dtype).t(), None) for part in (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    )
    return LayerWeights(
        qkv=make(joined(*(part.weight for part in projections)).t(), bias),
        out=out,
        gate=gate,
        up=up,
        down=down,
        norms=(norm_of(layer.input_layernorm), norm_of(layer.post_attention_layernorm)),
        head_norms=head_norms,
    )


def norm_of(module: Any) -> Norm:
    """An RMS norm's weight and epsilon."""
    return module.weight, module.variance_epsilon


def _interleave_halves(rows: Tensor, width: int) -> Tensor:
    """The rows of each head (heads * width, ...), i and i + width / 2 side by side: a rotary embedding turns them
    together. Queries and keys are reordered alike, so their products do not change.
    """
    return rows.view(-1, 2, width // 2, *rows.shape[1:]).transpose(1, 2).flatten(0, 2)
