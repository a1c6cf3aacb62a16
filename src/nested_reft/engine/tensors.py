"""Small operations on tensors that the engine's modules share."""

from __future__ import annotations

import torch
from torch import Tensor


def position_ids(mask: Tensor) -> Tensor:
    """The position of each token, (rows, length), counted from the first token where the mask is true."""
    return (mask.long().cumsum(-1) - 1).clamp_min(0)


def upcast(logits: Tensor) -> Tensor:
    """float64 logits as they are, all others in float32: half precision has too few digits for a ratio."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
