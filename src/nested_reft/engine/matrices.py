"""A matrix in the form in which rollouts multiply by it fastest, in a precision of their own.

Decoding multiplies a few rows by every matrix of the model, at each step again. A CPU does that at full speed only if
the matrix has been reordered for it beforehand (*packed*), which oneDNN does; `benchmarks/matrices.py` measures where
that pays.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PRECISIONS = ("float32", "bfloat16", "int8")
MIN_PACKED = 2**18  # elements: of a smaller matrix, the calls of oneDNN cost more than its kernels save
BLOCK = 2**17  # elements that are quantised at a time: they stay in the processor's cache
ROWS = 32  # that packed float32 matrices are laid out for; others are multiplied a few percent slower


def why_no_precision(precision: str, device: torch.device) -> str | None:
    """Why rollouts in this precision would be slow or impossible on this device; None if nothing speaks against it."""
    if device.type == "cuda":
        if precision == "int8":
            return "int8 was measured on CPUs only"
        if precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            return "this GPU has no instructions for bfloat16"
        return None
    supported: dict[str, Any] = {
        "float32": lambda: True,
        "bfloat16": torch.ops.mkldnn._is_mkldnn_bf16_supported,
        "int8": torch.cpu._is_vnni_supported,
    }
    return None if supported[precision]() else f"this processor has no instructions for {precision}"


class Matrix:
    """A matrix (in, out) with a bias (out,) or none, by which rows x (N, in) are multiplied. Differentiable."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """x W + bias, (N, out)."""
        x = x.to(self.weight.dtype)
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)

    def silu(self, x: Tensor) -> Tensor:
        """silu(x W + bias)."""
        return F.silu(self(x))

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """factor * (x W + bias)."""
        return factor * self(x)

    def add(self, x: Tensor, hidden: Tensor) -> Tensor:
        """hidden + x W, as one operation if they have the same type."""
        if hidden.dtype == self.weight.dtype:
            return torch.addmm(hidden, x, self.weight)
        return hidden + self(x)


class OneDnnMatrix(Matrix):
    """A packed matrix of a CPU, in float32 or bfloat16. What follows a product is computed with it."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.dtype, self.bias = weight.dtype, bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous(), ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        return self._product(x, "none")

    def silu(self, x: Tensor) -> Tensor:
        return self._product(x, "swish")

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        return self._combined(x, factor, "mul")

    def add(self, x: Tensor, hidden: Tensor) -> Tensor:
        return self._combined(x, hidden, "add") if hidden.dtype == self.dtype else hidden + self(x)

    def _product(self, x: Tensor, then: str) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.packed, self.bias, then, [], "")
        return product

    def _combined(self, x: Tensor, other: Tensor, how: str) -> Tensor:
        combined: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x.to(self.dtype), other, self.packed, self.bias, how
        )
        return combined


class Int8Matrix(Matrix):
    """A packed matrix of a CPU in int8, with one scale per column; rows are quantised to 8 bits with one scale each.

    So a row's product does not depend on the rows beside it, and an outlier spoils no other row.
    """

    ZERO = 128  # of unsigned rows: the instructions multiply unsigned by signed bytes

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        columns = weight.t()  # (out, in)
        quantised, scales = torch.empty(columns.shape, dtype=torch.int8), torch.empty(len(columns), 1)
        size = max(1, BLOCK // columns.shape[1])
        for into, scale, part in zip(*(torch.split(of, size) for of in (quantised, scales, columns)), strict=True):
            scale.copy_(_scale(part.float()))
            into.copy_((part / scale).round_())
        self.packed, self.bias = torch.ops.onednn.qlinear_prepack(quantised, None), bias
        self.scales, self.zeros = scales.flatten(), torch.zeros(len(columns), dtype=torch.int32)

    def __call__(self, x: Tensor) -> Tensor:
        scale = _scale(x := x.float())
        quantised = (x / scale).round_().add_(self.ZERO).to(torch.uint8)
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            quantised, 1.0, self.ZERO, self.packed, self.scales, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        product = product.mul_(scale)
        return product if self.bias is None else product.add_(self.bias)

    def add(self, x: Tensor, hidden: Tensor) -> Tensor:
        return hidden + self(x)


def _scale(rows: Tensor) -> Tensor:
    """What each row (N, D) is divided by to fit into 8 bits with a sign: (N, 1)."""
    return rows.abs().amax(-1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny).div_(127)
