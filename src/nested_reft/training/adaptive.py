"""How many layers an adaptive run leaves out: more while b stays close enough to the target, fewer if it does not.

Computed from the run's own metrics, so that a run that continues from a checkpoint draws as an uninterrupted one does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from nested_reft.config.run import Run
from nested_reft.config.training import Adaptation
from nested_reft.core.layer_selection import num_skipped

PAUSE = 4  # times `batches`: how long a number of layers that failed is not tried again


def adapted_count(history: Sequence[tuple[int, float]], max_count: int, target: float, batches: int) -> int:
    """How many layers the next batch leaves out: from 1, which is never given up, to `max_count`.

    The first batch leaves out 1. One more follows when the mean effective sample size of the last `batches` batches,
    all with the same number, is at least the target. One fewer follows when it is below the target, or when a single
    batch is below half of it or is no number. A number that failed is tried again after 4 `batches` other batches.

    Args:
        history: layers left out and effective sample size, a share in (0, 1], of each batch so far.
        max_count: the most layers to leave out, 1 or more.
        target: the effective sample size to keep, in (0, 1].
        batches: how many batches are averaged, 1 or more.

    Raises:
        ValueError: `max_count` or `batches` is below 1.
    """
    if max_count < 1 or batches < 1:
        raise ValueError(f"max_count and batches must be 1 or more, got {max_count} and {batches}")
    count, values = 1, list[float]()
    failed: dict[int, int] = {}  # the last batch at which a number of layers failed
    for number, (left_out, ess) in enumerate(history, start=1):
        if left_out != count:  # what was drawn counts, should it not be what these rules say
            count, values = left_out, []
        values = [*values, ess][-batches:]
        full = len(values) == batches
        if not ess >= target / 2 or (full and not fmean(values) >= target):
            failed[count] = number
            if count > 1:
                count, values = count - 1, []
        elif full and count < max_count and number - failed.get(count + 1, -math.inf) >= PAUSE * batches:
            count, values = count + 1, []
    return min(max(count, 1), max_count)


def max_skipped_layers(
    run: Run, adapt: Adaptation | None, num_layers: int, metrics: Sequence[Mapping[str, Any]]
) -> int | None:
    """The bound on the next step's skipped layers, from the rows of metrics so far; None if the run does not adapt."""
    max_count = num_skipped(num_layers, run.skip)
    if adapt is None or max_count == 0:
        return None
    history = [(len(row["skipped_layers"]), row["ess"]) for row in metrics]
    return adapted_count(history, max_count, adapt.target_ess, adapt.ess_batches)
