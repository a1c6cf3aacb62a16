"""Threads change no number by more than the rounding of sums.

Other settings for speed or memory are tested where they are made: micro-batches and activation checkpointing beside
this file, jobs side by side in `tests/faults`, parts of a rollout in `tests/engine`, batches and threads of an
evaluation in `tests/evaluation`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import run, tiny_policy, tiny_settings

LEARNING_RATE = 0.003
Trained = tuple[list[dict[str, Any]], dict[str, torch.Tensor]]


def trained(folder: Path, seed: int = 1, width: int = 64) -> Trained:
    """Metrics, without timings, and final weights of a nested run."""
    policy = tiny_policy(width=width, feed_forward=2 * width)
    settings = tiny_settings(seed=seed, problems_per_step=6, max_new_tokens=8, learning_rate=LEARNING_RATE)
    done = run(folder, settings, policy=policy)
    return done.rows, done.weights


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def largest_difference(one: Trained, two: Trained) -> float:
    """Of all weights."""
    return max(float((value - two[1][name]).abs().max()) for name, value in one[1].items())


def same_numbers(one: dict[str, Any], two: dict[str, Any], rel: float) -> bool:
    """Whether the metrics of a step agree to rounding; what follows from the sampled tokens must be equal."""
    exact = ("step", "skipped_layers", "reward", "completion_length")
    first, second = ({name: value for name, value in row.items() if name not in exact} for row in (one, two))
    same_tokens = [one[name] for name in exact] == [two[name] for name in exact]
    return same_tokens and first == pytest.approx(second, rel=rel, nan_ok=True)


@pytest.mark.parametrize("width", [16, 128])
@pytest.mark.usefixtures("restored_threads")
def test_threads_change_no_more_than_the_rounding(tmp_path: Path, width: int) -> None:
    """The same number of threads gives the same bits, another one sums float32 numbers in another order.

    In the first step the weights are the same: sums of hundreds of numbers, each rounded to 6e-8 of its value, may
    differ by 1e-5 (measured: 7e-7). Adam divides each gradient by its own size, which enlarges the rounding of small
    ones, and later steps inherit it: 1e-3 for metrics (measured: 3e-5), and for weights a tenth of what one update can
    move them, which is the learning rate (measured: 1.2e-5).
    """
    found = []
    for number, threads in enumerate((1, 2, 2)):
        torch.set_num_threads(threads)
        found.append(trained(tmp_path / str(number), width=width))
    one, two, again = found
    assert json.dumps(two[0]) == json.dumps(again[0])  # as text, in which nan equals nan
    assert largest_difference(two, again) == 0
    assert same_numbers(one[0][0], two[0][0], rel=1e-5)
    assert all(same_numbers(*rows, rel=1e-3) for rows in zip(one[0], two[0], strict=True))
    assert largest_difference(one, two) < LEARNING_RATE / 10
