"""What the parity claim can decide: the computed power against simulated experiments."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from power import chance, fails_from, passes_up_to, power_table
from scipy import stats

MARGIN = 0.05


def simulated(low: float, high: float, difference: float, spread: float, seeds: int) -> float:
    """How often Student's t interval over normal differences is within (low, high), in 40,000 experiments."""
    values = np.random.default_rng(0).normal(difference, spread, (40_000, seeds))
    half = stats.t.ppf(0.975, seeds - 1) * values.std(axis=1, ddof=1) / math.sqrt(seeds)
    mean = values.mean(axis=1)
    return float(((mean - half >= low) & (mean + half <= high)).mean())


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(("difference", "spread"), [(0.0, 0.01), (0.02, 0.01), (0.03, 0.02), (0.05, 0.005)])
def test_the_chance_to_pass_is_that_of_simulated_experiments(seeds: int, difference: float, spread: float) -> None:
    expected = simulated(-MARGIN, MARGIN, difference, spread, seeds)
    assert chance(-MARGIN, MARGIN, difference, spread, seeds) == pytest.approx(expected, abs=0.01)


def test_the_chance_to_fail_is_that_of_simulated_experiments() -> None:
    expected = simulated(MARGIN, np.inf, 0.08, 0.015, 5)
    assert 0.5 < expected < 0.95
    assert chance(MARGIN, np.inf, 0.08, 0.015, 5) == pytest.approx(expected, abs=0.01)


def test_at_the_margin_a_cell_passes_at_most_as_often_as_the_level_says() -> None:
    for seeds in (3, 5, 8):
        assert chance(-MARGIN, MARGIN, MARGIN, 0.01, seeds) == pytest.approx(0.025, abs=0.001)


def test_the_limits_have_the_power_that_was_asked_for() -> None:
    small, large = passes_up_to(MARGIN, 0.8, 0.01, 5), fails_from(MARGIN, 0.8, 0.01, 5)
    assert 0 < small < MARGIN < large
    assert chance(-MARGIN, MARGIN, small, 0.01, 5) == pytest.approx(0.8, abs=1e-6)
    assert chance(MARGIN, np.inf, large, 0.01, 5) == pytest.approx(0.8, abs=1e-6)
    assert math.isnan(passes_up_to(MARGIN, 0.8, 0.03, 3)), "no difference passes"


def test_more_seeds_and_less_spread_decide_more() -> None:
    found = [[passes_up_to(MARGIN, 0.8, spread, seeds) for seeds in (4, 5, 8)] for spread in (0.005, 0.010, 0.015)]
    assert all(row == sorted(row) for row in found)
    assert all(list(column) == sorted(column, reverse=True) for column in zip(*found, strict=True))


def test_the_page_has_the_table_that_the_tool_prints() -> None:
    page = (Path(__file__).parents[2] / "docs/choices.md").read_text(encoding="utf-8")
    for row in power_table(MARGIN, 0.8).to_dict("records"):
        assert f"| {' | '.join(row.values())} |" in page
