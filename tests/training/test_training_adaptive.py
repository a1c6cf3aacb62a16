"""How many layers an adaptive run leaves out: by hand-written histories, and in runs that are interrupted."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import Done, assert_resumes, run, tiny_settings

from nested_reft.config.strict import ConfigError, parse
from nested_reft.config.training import TrainSettings
from nested_reft.training.adaptive import adapted_count

GOOD, LOW, BAD = 0.9, 0.4, 0.2  # above a target of 0.5, below it, below half of it


def counts(values: list[float], *, most: int = 3, batches: int = 2) -> list[int]:
    """How many layers each batch and the one after them leave out, if these are the effective sample sizes."""
    history: list[tuple[int, float]] = []
    for value in values:
        history.append((adapted_count(history, most, 0.5, batches), value))
    return [count for count, _ in history] + [adapted_count(history, most, 0.5, batches)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], [1]),
        # One more after two good batches, up to the most.
        ([GOOD] * 7, [1, 1, 2, 2, 3, 3, 3, 3]),
        # The target itself is enough.
        ([0.5] * 4, [1, 1, 2, 2, 3]),
        # The mean decides: 0.4 and 0.9 are enough, in any order.
        ([LOW, GOOD, GOOD, LOW], [1, 1, 2, 2, 3]),
        # One low batch alone is not enough to fall; the second is.
        ([GOOD, GOOD, LOW, LOW], [1, 1, 2, 2, 1]),
        # A bad one is, at once, also before there are two.
        ([GOOD, GOOD, BAD], [1, 1, 2, 1]),
        ([GOOD, GOOD, math.nan], [1, 1, 2, 1]),
        ([GOOD, GOOD, GOOD, GOOD, BAD], [1, 1, 2, 2, 3, 2]),
        # The value of a batch is compared with half the target, 0.25.
        ([GOOD, GOOD, 0.25, GOOD], [1, 1, 2, 2, 3]),
        # 1 is never given up, and left for 2 once the last two are good.
        ([BAD, BAD, LOW, GOOD, GOOD], [1, 1, 1, 1, 2, 2]),
        # The last two count, not all: 2 is held for long at 3, then left.
        ([GOOD] * 8 + [LOW, LOW], [1, 1, 2, 2, 3, 3, 3, 3, 3, 3, 2]),
        # 2 fails at batch 3; eight others (4 x 2) come before it is tried again at batch 12, and after it fails again.
        ([GOOD, GOOD, BAD, *[GOOD] * 8, BAD, *[GOOD] * 9], [1, 1, 2, *[1] * 8, 2, *[1] * 8, 2, 2]),
        # 3 fails at batch 5, 2 at batch 7, which is tried at 16; by then the pause of 3 is over too.
        ([GOOD] * 4 + [BAD, GOOD, BAD] + [GOOD] * 10, [1, 1, 2, 2, 3, 2, 2, *[1] * 8, 2, 2, 3]),
    ],
)
def test_the_rules_one_by_one(values: list[float], expected: list[int]) -> None:
    assert counts(values) == expected


def test_one_batch_is_enough_if_the_settings_say_so() -> None:
    assert counts([GOOD, GOOD, LOW, GOOD, GOOD, GOOD, GOOD], batches=1) == [1, 2, 3, 2, 2, 2, 2, 3]


def test_what_was_drawn_counts() -> None:
    """A history that these rules did not make, such as one with another target."""
    assert adapted_count([(3, GOOD), (3, BAD)], 5, 0.5, 2) == 2
    assert adapted_count([(4, GOOD), (4, GOOD)], 5, 0.5, 2) == 5
    assert adapted_count([(4, GOOD), (4, GOOD)], 2, 0.5, 2) == 2
    assert adapted_count([(0, GOOD)], 2, 0.5, 2) == 1


@pytest.mark.parametrize(("most", "batches"), [(0, 1), (1, 0)])
def test_a_bound_below_one_is_refused(most: int, batches: int) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        adapted_count([], most, 0.5, batches)


SHARES = st.floats(0, 1) | st.just(math.nan)


@given(
    history=st.lists(st.tuples(st.integers(0, 12), SHARES), max_size=40),
    most=st.integers(1, 8),
    target=st.floats(0.01, 1),
    batches=st.integers(1, 5),
)
def test_any_history_gives_a_number_from_one_to_the_most(
    history: list[tuple[int, float]], most: int, target: float, batches: int
) -> None:
    assert 1 <= adapted_count(history, most, target, batches) <= most


@given(values=st.lists(SHARES, max_size=60), most=st.integers(1, 6), batches=st.integers(1, 4))
def test_a_run_moves_by_one_and_rises_after_enough_batches_only(values: list[float], most: int, batches: int) -> None:
    found = counts(values, most=most, batches=batches)
    assert found[0] == 1
    for number, (before, after) in enumerate(pairwise(found), start=1):
        assert abs(after - before) <= 1
        if after > before:
            assert number >= batches
            assert set(found[number - batches : number]) == {before}
            assert sum(values[number - batches : number]) >= 0.5 * batches - 1e-9


# --- in a run


def adaptive(target: float, **changes: Any) -> TrainSettings:
    """Up to three of the four eligible layers, judged after each batch."""
    adapt = {"target_ess": target, "ess_batches": 1}
    return tiny_settings(skip=50, strategy="adaptive", adapt=adapt, **changes)


def numbers(done: Done) -> list[int]:
    return [len(row["skipped_layers"]) for row in done.rows]


def test_a_run_leaves_out_more_layers_while_it_stays_close(tmp_path: Path) -> None:
    assert numbers(run(tmp_path / "easy", adaptive(0.01))) == [1, 2, 3, 3, 3, 3]
    assert numbers(run(tmp_path / "hard", adaptive(1.0))) == [1] * 6


@pytest.mark.parametrize("dies_after", [1, 3, 4, 5])
def test_an_interrupted_run_ends_exactly_like_an_uninterrupted_one(tmp_path: Path, dies_after: int) -> None:
    # Between those of one layer and of more, so that the number rises and falls.
    shares = [row["ess"] for row in run(tmp_path / "probe", adaptive(0.01)).rows]
    settings = adaptive((shares[0] + min(shares[1:])) / 2)
    whole, continued = assert_resumes(tmp_path, settings, dies_after=dies_after)
    found = numbers(whole)
    assert any(after > before for before, after in pairwise(found)), found
    assert any(after < before for before, after in pairwise(found)), found
    assert all("rollout_seconds" in row for row in continued.state.metrics), "for comparisons at equal rollout time"


def test_a_checkpoint_made_with_another_influence_is_not_continued(tmp_path: Path) -> None:
    settings = tiny_settings(strategy="least")
    done = [run(tmp_path, settings, influence=influence) for influence in (torch.arange(6.0), -torch.arange(6.0))]
    assert [{tuple(row["skipped_layers"]) for row in one.rows} for one in done] == [{(1, 2)}, {(3, 4)}]
    assert "it belongs to other settings" in done[1].log[0]


def test_a_run_that_adapts_needs_a_target() -> None:
    text = tiny_settings().canonical_json()
    with pytest.raises(ConfigError, match=r"adapt: is missing, and run\.strategy 'adaptive' adapts to a target"):
        parse(TrainSettings, text.replace('"uniform"', '"adaptive"'), "--settings")
