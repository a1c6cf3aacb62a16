"""The clock of everything that is timed."""

from __future__ import annotations

import time

import torch


def now(device: torch.device) -> float:
    """Seconds; on a GPU after the work that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
