"""Small operations on tensors that the engine's modules share."""

from __future__ import annotations

import torch
from torch import Tensor


def position_ids(mask: Tensor) -> Tensor:
    """The position of each token, (rows, length), counted from the first token that the mask lets through."""
    return (mask.long().cumsum(-1) - 1).clamp_min(0)


def upcast(logits: Tensor) -> Tensor:
    """The logits in float64 if they are, in float32 otherwise: half precision has too few digits for a ratio."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
