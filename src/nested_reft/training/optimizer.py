"""The optimizer and its learning rate."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def make_optimizer(
    model: PreTrainedModel, learning_rate: float, weight_decay: float, *, fused: bool | None = None
) -> torch.optim.AdamW:
    """AdamW over all trainable parameters; `fused` as in torch."""
    return torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=learning_rate,
        betas=(0.9, 0.99),
        weight_decay=weight_decay,
        foreach=False,  # on a GPU the default, with temporaries as large as all parameters together
        fused=fused,
    )


def warmup_factor(step: int, warmup_steps: int) -> float:
    """The factor of the learning rate at step `step` (from 1): it rises linearly, then stays 1."""
    return min(1.0, step / (warmup_steps + 1))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
