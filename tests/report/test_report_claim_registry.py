"""The registry of claims: thresholds in the words and in the rules, cells that no rule can judge, and the summary."""

from __future__ import annotations

import math
import re

import pandas as pd
import pytest
from synthetic import make_config

from nested_reft.config.experiment import Config
from nested_reft.report.claims.judge import judge
from nested_reft.report.claims.registry import MINIMUM_GAIN, statements
from nested_reft.report.claims.rules import CellVerdict
from nested_reft.report.claims.summary import verdicts
from nested_reft.report.statistics.intervals import Interval

CONFIG = make_config(sizes=1, benchmarks=1, steps=1)
NAN = math.nan
STATEMENTS = statements(CONFIG)


def interval(estimate: float, low: float, high: float) -> Interval:
    return Interval(estimate, low, high, 3, "t")


@pytest.mark.parametrize(
    ("claim", "found", "expected"),
    [
        ("C1", (1.1, 1.01, 1.2), "passes"),
        ("C1", (1.1, 1.0, 1.2), "undecided"),
        ("C2", (0.9, 0.8, 1.0), "fails"),
        ("C3", (0.05, 0.0, 0.10), "passes"),
        ("C3", (0.05, 0.0, 0.11), "undecided"),
        ("C3", (0.15, 0.10, 0.2), "undecided"),
        ("C3", (0.15, 0.11, 0.2), "fails"),
        ("C4", (1.5, 1.0, 2.0), "passes"),
        ("C4", (2.5, 2.1, 3.0), "fails"),
        ("C5", (0.0, -0.05, 0.05), "passes"),
        ("C5", (0.0, -0.06, 0.05), "undecided"),
        ("C5", (-0.1, -0.2, -0.05), "undecided"),
        ("C5", (-0.1, -0.2, -0.051), "fails"),
        ("C5", (0.1, 0.051, 0.2), "fails"),
        ("C6", (0.15, 0.10, 0.2), "passes"),
        ("C6", (0.15, 0.09, 0.2), "undecided"),
        ("C6", (0.09, 0.085, 0.095), "fails"),
        ("C6", (-0.10, -0.12, -0.08), "fails"),
    ],
)
def test_rules_of_a_cell(claim: str, found: tuple[float, float, float], expected: str) -> None:
    assert STATEMENTS[claim].limits.judge(interval(*found)) == expected


def other_thresholds() -> Config:
    """Thresholds that no default has."""
    evaluation = CONFIG.evaluation.model_copy(update={"parity_margin": 0.07})
    gradients = CONFIG.gradients.model_copy(update={"bias_margin": 0.15, "variance_limit": 3.5})
    return CONFIG.model_copy(update={"evaluation": evaluation, "gradients": gradients})


@pytest.mark.parametrize("config", [CONFIG, other_thresholds()], ids=["default", "other"])
@pytest.mark.parametrize("claim", STATEMENTS)
def test_a_claim_says_the_threshold_that_it_is_judged_by(claim: str, config: Config) -> None:
    """The one number of its text: intervals on either side of it are judged in opposite ways."""
    statement = statements(config)[claim]
    ((number, unit),) = re.findall(r"([\d.]+)(×| %| points)", statement.text)
    threshold = float(number) / (1 if unit == "×" else 100)
    below, above = (interval(threshold + by, threshold + by - 1e-6, threshold + by + 1e-6) for by in (-1e-5, 1e-5))
    wanted = ("fails", "passes") if re.search("more than|at least", statement.text) else ("passes", "fails")
    assert (statement.limits.judge(below), statement.limits.judge(above)) == wanted


def test_only_the_condition_of_the_experiment_is_no_claim_of_the_paper() -> None:
    ours = [name for name, statement in STATEMENTS.items() if statement.paper != "not available to us"]
    assert ours == [name for name, statement in STATEMENTS.items() if "no claim of the paper" in statement.text]
    assert ours == ["C6"]
    assert f"{100 * MINIMUM_GAIN:g} points" in STATEMENTS["C6"].text


def test_a_cell_without_interval_is_not_judged_and_one_without_spread_is_undecided() -> None:
    def reason(found: Interval) -> str:
        return "" if found.exists else "why"

    def of(found: Interval | None) -> tuple[CellVerdict | None, str]:
        cell = judge(found, STATEMENTS["C1"], reason)
        return cell.verdict, cell.reason

    assert of(None) == (None, "")
    assert of(Interval(1.5, NAN, NAN, 1, "t")) == (None, "")
    assert of(interval(1.5, 1.5, 1.5)) == ("undecided", "why")
    assert of(interval(1.1, 0.9, 1.3)) == ("undecided", "")
    assert of(interval(2, 1.5, 2.5)) == ("passes", "")


def test_a_summary_says_how_many_corrections_have_which_verdict() -> None:
    table = pd.DataFrame(
        [("C3-base", "refuted", "0 of 6 pass, 2 fail, 4 not resolved"), ("C3-unit", "refuted", "0 of 6 pass, 6 fail"),
         ("C3-is_sequence", "inconclusive", "0 of 6 pass, 6 not resolved"), ("C6", "refuted", "0 of 1 pass, 1 fail")],
        columns=["id", "verdict", "counts"],
    )  # fmt: skip
    table["claim"] = ["Unbiased, with 'base'", "Unbiased, with 'unit'", "Unbiased, with 'is_sequence'", "Gains"]
    assert verdicts(table).to_numpy().tolist() == [
        ["C3", "2 refuted, 1 inconclusive",
         "Unbiased – refuted: base (0 of 6 pass, 2 fail, 4 not resolved), unit (0 of 6 pass, 6 fail); "
         "inconclusive: is_sequence (0 of 6 pass, 6 not resolved)"],
        ["C6", "refuted", "Gains (0 of 1 pass, 1 fail)"],
    ]  # fmt: skip
