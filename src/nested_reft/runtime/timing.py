"""The clock behind every timing."""

from __future__ import annotations

import time

import torch


def now(device: torch.device) -> float:
    """Seconds; on a GPU, after all queued work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
