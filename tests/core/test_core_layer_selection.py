"""Each strategy by all its possible outcomes, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from nested_reft.core.layer_selection import SELECTIONS, choose_skipped_layers, draw_skipped_layers

SEEDS = {"batch_seed": 1, "run_seed": 2}


def chosen(strategy: str, num_layers: int, percent: int, border: int, **options: object) -> tuple[int, ...]:
    return choose_skipped_layers(strategy, num_layers, percent, border, **(SEEDS | options))


def refuse() -> Tensor:
    raise AssertionError("the influence was asked for")


def test_the_names_of_the_strategies() -> None:
    assert tuple(SELECTIONS) == (
        "uniform", "contiguous", "alternate", "static", "influence", "least_half", "least", "adaptive"
    )  # fmt: skip
    reads = {name: entry.influence_kind for name, entry in SELECTIONS.items() if entry.influence_kind}
    assert reads == {"influence": "block", "least_half": "ablation", "least": "ablation"}


@pytest.mark.parametrize(
    ("strategy", "seed", "outcomes"),
    [
        ("uniform", "batch_seed", list(combinations(range(1, 6), 3))),
        ("static", "run_seed", list(combinations(range(1, 6), 3))),
        ("contiguous", "batch_seed", [(1, 2, 3), (2, 3, 4), (3, 4, 5)]),
        ("alternate", "batch_seed", [(1, 3, 5)]),
    ],
)
def test_three_of_five_layers_every_outcome_is_equally_likely(
    strategy: str, seed: str, outcomes: list[tuple[int, ...]]
) -> None:
    counts = Counter(chosen(strategy, 7, 43, 1, influence=refuse, **{seed: value}) for value in range(1500))
    assert set(counts) == set(outcomes)
    if len(outcomes) > 1:
        assert chisquare([counts[outcome] for outcome in outcomes]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("strategy", "outcomes"),
    [("contiguous", [(2, 3), (3, 4), (4, 5), (5, 6), (6, 7)]), ("alternate", [(2, 4), (3, 5), (4, 6), (5, 7)])],
)
def test_two_of_six_layers_every_start_is_equally_likely(strategy: str, outcomes: list[tuple[int, ...]]) -> None:
    counts = Counter(chosen(strategy, 10, 20, 2, batch_seed=seed) for seed in range(1500))
    assert set(counts) == set(outcomes)
    assert chisquare([counts[outcome] for outcome in outcomes]).pvalue > 1e-3


@given(layers=st.integers(1, 40), percent=st.integers(0, 99), border=st.integers(0, 4), seed=st.integers(0, 2**63 - 1))
def test_uniform_is_the_paper_s_draw(layers: int, percent: int, border: int, seed: int) -> None:
    def outcome(draw: Callable[[], tuple[int, ...]]) -> tuple[int, ...] | str:
        try:
            return draw()
        except ValueError as error:
            return str(error)

    expected = outcome(lambda: draw_skipped_layers(layers, percent, border, torch.Generator().manual_seed(seed)))
    assert outcome(lambda: chosen("uniform", layers, percent, border, batch_seed=seed)) == expected
    assert outcome(lambda: chosen("static", layers, percent, border, run_seed=seed)) == expected


@given(
    strategy=st.sampled_from(tuple(SELECTIONS)),
    layers=st.integers(1, 40),
    border=st.integers(0, 5),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**63 - 1),
)
def test_the_count_is_right_and_the_border_respected(
    strategy: str, layers: int, border: int, share: float, seed: int
) -> None:
    eligible = range(border, layers - border)
    reach = (len(eligible) + 1) // 2 if strategy in ("alternate", "least_half") else len(eligible)
    percent = min(int(share * 100 * reach / layers), 99)
    influence = torch.randn(layers, generator=torch.Generator().manual_seed(seed))
    found = chosen(strategy, layers, percent, border, batch_seed=seed, run_seed=seed, influence=lambda: influence)
    assert len(found) == len(set(found)) == round(percent / 100 * layers)
    assert list(found) == sorted(found)
    assert set(found) <= set(eligible)
    steps = {after - before for before, after in pairwise(found)}
    assert steps <= {"contiguous": {1}, "alternate": {2}}.get(strategy, set(range(1, 40)))


@pytest.mark.parametrize("strategy", SELECTIONS)
def test_a_bound_leaves_out_fewer_layers_and_never_more(strategy: str) -> None:
    options = {"influence": lambda: torch.arange(12.0)}
    counts = [len(chosen(strategy, 12, 34, 1, max_skipped=bound, **options)) for bound in (1, 2, 3, 4, 5, 100)]
    assert counts == [1, 2, 3, 4, 4, 4]
    assert len(chosen(strategy, 12, 34, 1, **options)) == 4
    assert chosen(strategy, 12, 0, 1, max_skipped=3) == ()
    with pytest.raises(ValueError, match="max_skipped must be 1 or more, got 0"):
        chosen(strategy, 12, 34, 1, max_skipped=0, **options)


def test_adaptive_is_uniform_with_as_many_layers() -> None:
    assert [name for name, entry in SELECTIONS.items() if entry.adapts] == ["adaptive"]
    for seed in range(20):
        two = chosen("adaptive", 12, 34, 1, batch_seed=seed, max_skipped=2)
        assert two == chosen("uniform", 12, 17, 1, batch_seed=seed)
        assert set(two) < set(chosen("uniform", 12, 34, 1, batch_seed=seed)), "the same draw, cut short"


def test_static_is_one_draw_for_the_whole_run() -> None:
    batches = [{chosen("static", 28, 15, 1, run_seed=run, batch_seed=batch) for batch in range(20)} for run in range(6)]
    assert all(len(draws) == 1 for draws in batches)
    assert len(set.union(*batches)) == 6


@pytest.mark.parametrize("strategy", ["uniform", "contiguous", "alternate", "adaptive"])
def test_only_the_batch_decides_for_the_strategies_that_draw_for_each_batch(strategy: str) -> None:
    torch.manual_seed(5)
    draws = [chosen(strategy, 28, 15, 1, batch_seed=batch) for batch in range(20)]
    torch.manual_seed(6)
    assert [chosen(strategy, 28, 15, 1, batch_seed=batch, run_seed=9) for batch in range(20)] == draws
    assert len(set(draws)) > 5


@pytest.mark.parametrize(
    ("influence", "percent", "border", "expected"),
    [
        # With a border of 1 the least, layer 0, is not eligible.
        ([0.1, 0.9, 0.3, 0.5, 0.2, 0.8], 33, 1, (2, 4)),
        ([0.1, 0.9, 0.3, 0.5, 0.2, 0.8], 33, 0, (0, 4)),
        ([0.1, 0.9, 0.3, 0.5, 0.2, 0.8], 50, 1, (2, 3, 4)),
        # Ties: the lowest index, also beside a smaller value.
        ([0.0, 0.5, 0.5, 0.5, 0.5, 0.0], 33, 1, (1, 2)),
        ([0.0, 0.7, 0.7, 0.7, 0.2, 0.0], 33, 1, (1, 4)),
        ([0.0, 0.3, -0.1, 0.3, 0.3, 0.0], 50, 1, (1, 2, 3)),
    ],
)
@pytest.mark.parametrize("strategy", ["influence", "least"])
def test_the_layers_of_least_influence_are_left_out(
    strategy: str, influence: list[float], percent: int, border: int, expected: tuple[int, ...]
) -> None:
    for seed in range(3):
        found = chosen(strategy, 6, percent, border, batch_seed=seed, influence=lambda: torch.tensor(influence))
        assert found == expected


@pytest.mark.parametrize(
    ("influence", "outcomes"),
    [
        # Of the seven layers within border 1, four: the half, rounded up.
        ([0.0, 0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.4, 0.0], list(combinations((2, 4, 6, 7), 2))),
        # Ties: the lowest index.
        ([0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1, 0.0], list(combinations((1, 2, 3, 7), 2))),
    ],
)
def test_least_half_draws_for_each_batch_from_the_half_of_least_influence(
    influence: list[float], outcomes: list[tuple[int, ...]]
) -> None:
    found = Counter(
        chosen("least_half", 9, 22, 1, batch_seed=seed, run_seed=seed % 3, influence=lambda: torch.tensor(influence))
        for seed in range(1500)
    )
    assert set(found) == set(outcomes)
    assert chisquare([found[outcome] for outcome in outcomes]).pvalue > 1e-3


@pytest.mark.parametrize("strategy", SELECTIONS)
def test_nothing_is_left_out_and_nothing_asked_where_the_count_is_zero(strategy: str) -> None:
    assert chosen(strategy, 8, 0, 1, influence=refuse) == ()
    assert chosen(strategy, 8, 6, 1, influence=refuse) == ()
    assert chosen(strategy, 8, 0, 4, influence=None) == ()


@pytest.mark.parametrize("strategy", [name for name, entry in SELECTIONS.items() if not entry.influence_kind])
def test_the_other_strategies_do_not_ask_for_the_influence(strategy: str) -> None:
    assert len(chosen(strategy, 8, 25, 1, influence=refuse)) == 2


def test_least_half_reaches_the_half_and_no_more() -> None:
    values = torch.tensor([0.0, 0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.4, 0.0])
    assert chosen("least_half", 9, 44, 1, influence=lambda: values) == (2, 4, 6, 7)
    with pytest.raises(ValueError, match="leaves out 5 of 9 layers, but strategy 'least_half' can leave out only 4"):
        chosen("least_half", 9, 56, 1, influence=lambda: values)


def test_alternate_reaches_half_the_eligible_layers_and_no_more() -> None:
    assert chosen("alternate", 9, 44, 1) == (1, 3, 5, 7)
    with pytest.raises(ValueError, match="leaves out 5 of 9 layers, but strategy 'alternate' can leave out only 4"):
        chosen("alternate", 9, 56, 1)
    with pytest.raises(ValueError, match="can leave out only 3 of the 6 within border 1"):
        chosen("alternate", 8, 50, 1)


@pytest.mark.parametrize("strategy", SELECTIONS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 100, 1), r"skip_percent must be in \[0, 100\), got 100"),
        ((8, -1, 1), r"skip_percent must be in \[0, 100\), got -1"),
        ((8, 25, -1), "border must not be negative, got -1"),
        ((8, 38, 3), "leaves out 3 of 8 layers, but border 3 leaves only 2"),
    ],
)
def test_a_choice_that_cannot_be_made_names_its_argument(
    strategy: str, arguments: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        chosen(strategy, *arguments, influence=lambda: torch.zeros(8))


def test_an_unknown_strategy_is_named_with_the_possible_ones() -> None:
    for percent in (25, 0):
        with pytest.raises(ValueError, match="'random'; possible: uniform, contiguous, alternate, static, influence, "):
            chosen("random", 8, percent, 1)


@pytest.mark.parametrize(
    ("influence", "message"),
    [
        (None, "strategy '{0}' needs the argument influence: {1} influence"),
        (torch.zeros(7), r"influence must be \(8,\), got \(7,\)"),
        (torch.zeros(8, 1), r"influence must be \(8,\), got \(8, 1\)"),
        (torch.tensor([0.0] * 7 + [torch.nan]), "influence has a layer whose value is not finite"),
        (torch.tensor([-torch.inf] + [0.0] * 7), "value is not finite"),
    ],
)
@pytest.mark.parametrize("strategy", [name for name, entry in SELECTIONS.items() if entry.influence_kind])
def test_an_influence_that_does_not_fit_is_named(strategy: str, influence: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message.format(strategy, SELECTIONS[strategy].influence_kind)):
        chosen(strategy, 8, 25, 1, influence=None if influence is None else lambda: influence)
