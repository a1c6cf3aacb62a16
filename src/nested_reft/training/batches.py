"""Which problems a step trains on."""

from __future__ import annotations

import torch

from nested_reft.runtime.seeding import derive_seed


def batch_indices(step: int, batch_size: int, num_problems: int, seed: int) -> list[int]:
    """Which problems step `step` (from 1) uses: successive slices of permutations, a new one for each epoch.

    The order depends on the seed only, so runs of one seed see the same problems whatever their correction.
    """
    indices = []
    for position in range((step - 1) * batch_size, step * batch_size):
        epoch, offset = divmod(position, num_problems)
        generator = torch.Generator().manual_seed(derive_seed("order", seed, epoch))
        indices.append(int(torch.randperm(num_problems, generator=generator)[offset]))
    return indices
