"""What the parity claim can decide: the computed power against simulated experiments."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from power import chance, fails_from, of_answers, passes_up_to, power_table
from scipy import stats

ROOT = Path(__file__).parents[2]
MARGIN = 0.05


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(
    ("low", "high", "difference", "spread"),
    [
        *[(-MARGIN, MARGIN, 0.0, 0.01), (-MARGIN, MARGIN, 0.02, 0.01), (-MARGIN, MARGIN, 0.03, 0.02)],
        *[(-MARGIN, MARGIN, 0.05, 0.005), (MARGIN, np.inf, 0.08, 0.015)],  # the last: to fail
    ],
)
def test_the_chance_is_that_of_simulated_experiments(
    low: float, high: float, difference: float, spread: float, seeds: int
) -> None:
    values = np.random.default_rng(0).normal(difference, spread, (40_000, seeds))
    half = stats.t.ppf(0.975, seeds - 1) * values.std(axis=1, ddof=1) / math.sqrt(seeds)
    within = (values.mean(axis=1) - half >= low) & (values.mean(axis=1) + half <= high)
    assert chance(low, high, difference, spread, seeds) == pytest.approx(within.mean(), abs=0.01)


def test_at_the_margin_a_cell_passes_as_often_as_the_level_says() -> None:
    for seeds in (3, 5, 8):
        assert chance(-MARGIN, MARGIN, MARGIN, 0.01, seeds) == pytest.approx(0.025, abs=0.001)


def test_the_limits_have_the_power_that_was_asked_for() -> None:
    small, large = passes_up_to(MARGIN, 0.8, 0.01, 5), fails_from(MARGIN, 0.8, 0.01, 5)
    assert 0 < small < MARGIN < large
    assert chance(-MARGIN, MARGIN, small, 0.01, 5) == pytest.approx(0.8, abs=1e-6)
    assert chance(MARGIN, np.inf, large, 0.01, 5) == pytest.approx(0.8, abs=1e-6)
    assert math.isnan(passes_up_to(MARGIN, 0.8, 0.03, 3)), "no difference passes"


def test_the_page_has_the_table_that_the_tool_prints() -> None:
    page = (ROOT / "docs/choices.md").read_text(encoding="utf-8")
    for row in power_table(MARGIN, 0.8).to_dict("records"):
        assert f"| {' | '.join(row.values())} |" in page


def test_the_page_has_the_spread_between_the_seeds_of_the_kept_run() -> None:
    page = " ".join((ROOT / "docs/choices.md").read_text(encoding="utf-8").split())
    runs = pd.read_csv(ROOT / "docs/reference/laptop/tables/runs.csv")
    cells = runs[runs["seed"].notna() & (runs["metric"] == "sampled")].pivot_table(
        values="value", index=["size", "seed", "benchmark"], columns=["correction", "skip"]
    )
    differences = cells.sub(cells["base", 0], axis=0).drop(columns=("base", 0))
    spread = 100 * differences.groupby(["size", "benchmark"]).std().stack(["correction", "skip"], future_stack=True)
    median = spread.groupby("correction").median()
    numbers = [f"{value:.1f}" for value in (*median[["retrace", "unit", "base"]], spread.quantile(0.9))]
    answers = f"{100 * of_answers(0.5, problems=120, samples=4):.1f}"
    retrace, unit, base, most = numbers
    assert f"is {retrace} points in the median case of `retrace`, {unit} of `unit` and {base} of `base`" in page
    assert f"at most {most} in nine of ten cases" in page
    assert f"120 problems of 4 samples could add {answers} points" in page
