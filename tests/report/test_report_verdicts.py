"""Verdicts: thresholds in words and rules, every verdict of every claim, and examples once reported wrongly."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic import make_config

from nested_reft.config.experiment import Config
from nested_reft.report.claims.judge import FAILS_ALONE, Claim, claim_rows, judge, judge_all, obstacles
from nested_reft.report.claims.registry import statements
from nested_reft.report.claims.rules import verdict
from nested_reft.report.claims.summary import verdicts
from nested_reft.report.claims.tables import cells_table
from nested_reft.report.statistics.intervals import UNBOUNDED, CellVerdict, Interval, Limits, t_interval

CONFIG = make_config(
    sizes=2, benchmarks=1, skips=(10, 20, 30), corrections=("base",), gradients=("is_sequence",), steps=2
)
CELLS = [(size, skip) for size in CONFIG.sizes for skip in (10, 20, 30)]
NAN = math.nan
STATEMENTS = statements(CONFIG)
Values = list[tuple[float, float, float]]  # estimate, low, high of each cell


def interval(estimate: float, low: float, high: float) -> Interval:
    return Interval(estimate, low, high, 3, "t")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 2, "passes"),
        (-0.1, 1, "undecided"),
        (1, 2.1, "undecided"),
        (-1, 0, "undecided"),
        (-1, -0.1, "fails"),
        (2.1, 3, "fails"),
    ],
)
def test_rules_of_a_cell(low: float, high: float, expected: str) -> None:
    assert Limits(0, 2).judge(interval((low + high) / 2, low, high)) == expected


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
    ours = "no claim of the paper" in statement.text
    assert (statement.paper == "no claim of the paper") == ours == (claim == "C6")


def test_a_cell_without_interval_is_not_judged_and_one_without_spread_is_undecided() -> None:
    for found, expected in (
        (None, (None, "")),
        (Interval(1.5, NAN, NAN, 1, "t"), (None, "")),
        (interval(1.5, 1.5, 1.5), ("undecided", "without spread")),
        (interval(1.1, 0.9, 1.3), ("undecided", "")),
        (interval(2, 1.5, 2.5), ("passes", "")),
    ):
        cell = judge(found, STATEMENTS["C1"])
        assert (cell.verdict, cell.reason) == expected
    assert judge(interval(0.9, 0.8, 1.0), STATEMENTS["C1"]).verdict == "fails"  # as fast is not faster


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        *[("pp", "supported"), ("pf", "partly"), ("pfu-", "partly"), ("pu", "inconclusive"), ("uu", "inconclusive")],
        *[("p-", "inconclusive"), ("ff", "refuted"), ("fu-", "refuted"), ("--", "not run"), ("", "not run")],
        *[("nn", "not assessable"), ("n-", "not assessable"), ("pn", "inconclusive"), ("fn", "refuted")],
    ],
)
def test_verdict_over_cells(cells: str, expected: str) -> None:
    of: dict[str, CellVerdict | None] = {
        **{"p": "passes", "f": "fails", "u": "undecided"},
        **{"n": "not assessable", "-": None},
    }
    assert verdict([of[cell] for cell in cells]) == expected


def rows(cells: list[tuple[str, int]], values: Values, names: tuple[str, str, str], **more: object) -> pd.DataFrame:
    """A table with one row per cell; a cell beyond the values was not run."""
    return pd.DataFrame(
        [
            {"size": size, "skip": skip, "n": 9, **more} | dict(zip(names, found, strict=True))
            for (size, skip), found in zip(cells, values, strict=False)
        ],
        columns=["size", "skip", "n", *more, *names],
    )


def accuracies(differences: list[list[float]], gains: list[list[float]]) -> pd.DataFrame:
    """A `runs` table: by cell and size, the three seeds' nested minus baseline and baseline minus pre-trained."""
    found = []

    def add(size: str, correction: str, skip: int, seed: int | None, value: float) -> None:
        dataset = "" if correction == "pretrained" else "stories"
        key = {"size": size, "dataset": dataset, "correction": correction, "skip": skip, "seed": seed}
        found.append({**key, "benchmark": "heldout", "metric": "sampled", "value": value, "n": 200})

    for size, gain in zip(CONFIG.sizes, gains, strict=False):
        add(size, "pretrained", 0, None, 0.3)
        for seed, by in enumerate(gain, start=1):
            add(size, "base", 0, seed, 0.3 + by)
    for (size, skip), difference in zip(CELLS, differences, strict=False):
        for seed, by in enumerate(difference, start=1):
            add(size, "base", skip, seed, 0.3 + gains[list(CONFIG.sizes).index(size)][seed - 1] + by)
    columns = ["size", "dataset", "correction", "skip", "seed", "benchmark", "metric", "value", "n"]
    return pd.DataFrame(found, columns=columns).astype({"seed": "Int64"})


GAINS = [0.19, 0.2, 0.21]  # of the baseline's three seeds: it has learned


def judged(claim: str, values: Values, noise: float = 0.01, gain: list[float] = GAINS) -> Claim:
    """`claim` judged by what was measured of its cells, in their order; the other claims are not run."""
    throughput = rows(CELLS, values if claim == "C1" else [], ("speedup", "speedup_low", "speedup_high"))
    steps = rows(CELLS, values if claim == "C2" else [], ("speedup", "speedup_low", "speedup_high"))
    of: dict[str, object] = {"correction": "is_sequence", "noise_floor": noise}
    names = {
        "C3": ("bias_debiased", "bias_low", "bias_high"),
        "C4": ("variance_ratio", "variance_low", "variance_high"),
    }
    other = {"C3": "C4"}.get(claim, "C3")
    of |= dict.fromkeys(names[other], NAN)
    gradients = rows(CELLS, values if claim in names else [], names[{"C3": "C4", "C4": "C3"}[other]], **of)
    # Three seeds, one at the estimate and two as far from it on either side as the interval asks for.
    around = [[mean + (high - mean) / T * 3**0.5 * step for step in (-1, 0, 1)] for mean, _, high in values]
    runs = accuracies(around if claim == "C5" else [], around if claim == "C6" else [gain] * 2)
    if claim not in ("C5", "C6"):
        runs = runs.iloc[:0]
    claims = claim_rows(runs, steps, throughput, gradients, pd.DataFrame(), pd.DataFrame(), CONFIG)
    (found,) = (one for one in claims if one.id.partition("-")[0] == claim and one.id not in ("C5-unit", "C5-retrace"))
    return found


T = 4.302653  # Student's t of two degrees of freedom, 97.5 %
# A cell of each claim that passes, one that fails and one that is undecided.
EXAMPLES = {
    "C1": [(1.2, 1.1, 1.3), (0.8, 0.7, 0.9), (1.1, 0.9, 1.3)],
    "C2": [(1.2, 1.1, 1.3), (0.8, 0.7, 0.9), (1.1, 0.9, 1.3)],
    "C3": [(0.04, 0.0, 0.08), (0.3, 0.25, 0.35), (0.08, 0.0, 0.16)],
    "C4": [(1.1, 0.9, 1.3), (5.0, 4.0, 6.0), (2.0, 0.5, 8.0)],
    "C5": [(0.01, -0.02, 0.04), (-0.2, -0.25, -0.15), (0.0, -0.2, 0.2)],
    "C6": [(0.2, 0.15, 0.25), (0.02, -0.03, 0.07), (0.2, -0.1, 0.5)],
}


@pytest.mark.parametrize("claim", EXAMPLES)
@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        *[("pppppp", "supported"), ("ffffff", "refuted"), ("ufuuuf", "refuted"), ("pfpppp", "partly")],
        *[("uuuuuu", "inconclusive"), ("pupppu", "inconclusive"), ("", "not run")],
    ],
)
def test_every_verdict_of_every_claim(claim: str, cells: str, expected: str) -> None:
    if claim == "C6":
        cells = cells[:2]  # one for each size
    passes, fails, undecided = EXAMPLES[claim]
    values = [{"p": passes, "f": fails, "u": undecided}[cell] for cell in cells]
    if claim == "C1":  # which must also rise
        values = [(mean + 0.001 * place, low, high) for place, (mean, low, high) in enumerate(values)]
    found = judged(claim, values)
    assert found.verdict == expected
    if cells:
        assert found.measured.startswith(f"{cells.count('p')} of {len(cells)} pass")
        assert (f"{cells.count('f')} fail" in found.measured) == ("f" in cells)
        assert (f"{cells.count('u')} undecided" in found.measured) == ("u" in cells)
        names = {"p": "passes", "f": "fails", "u": "undecided"}
        assert list(cells_table([found])["verdict"]) == [names[cell] for cell in cells]


@pytest.mark.parametrize("claim", EXAMPLES)
def test_the_cell_that_is_shown_is_the_one_that_decides(claim: str) -> None:
    """A failing one before an undecided one before one that passes, whatever their estimates."""
    passes, fails, undecided = EXAMPLES[claim]
    cells = ["passes", "undecided"] if claim == "C6" else ["passes", "undecided", "passes", "fails", "passes"]
    of = {"passes": passes, "undecided": undecided, "fails": fails}
    for shown in ("fails", "undecided", "passes"):
        found = judged(claim, [of[cell] for cell in cells])
        worst = cells_table([found]).query("low == @found.low and high == @found.high")
        assert set(worst["verdict"]) == ({shown} if shown in cells else {"undecided"})
        cells = [cell if cell != shown else "passes" for cell in cells]


def test_of_several_cells_the_one_nearest_to_failing_is_shown() -> None:
    # The largest difference passes clearly; one that reaches up to the margin hangs on the other bound.
    found = judged("C5", [(-0.03, -0.031, -0.029), (0.005, -0.035, 0.045), *[(0.0, -0.01, 0.01)] * 4])
    assert (found.verdict, found.high) == ("supported", pytest.approx(0.045, abs=1e-4))
    # Both are beyond the limit; the larger estimate is less certainly so.
    found = judged("C4", [(9.0, 3.5, 20.0), (5.0, 4.0, 6.0), *[(1.0, 0.9, 1.9)] * 4])
    assert (found.verdict, found.low) == ("partly", 4.0)


def test_a_bias_that_the_noise_hides_says_so_with_the_noise() -> None:
    lost, clear = (NAN, 0.0, 2.066), (0.676, 0.466, 0.836)
    found = judged("C3", [lost] * 3, noise=0.634)
    assert found.verdict == "inconclusive"
    assert found.measured == (
        "0 of 6 pass, 3 not resolved; worst (small, skip 10 %): not resolved [0.0 %, 206.6 %], on-policy noise 63.4 %; "
        "3 not run"
    )
    assert set(cells_table([found])["reason"]) == {"not resolved: on-policy noise 63.4 %", ""}
    # What the noise does not hide is judged all the same, by its whole interval.
    found = judged("C3", [lost] * 5 + [clear], noise=0.634)
    assert found.verdict == "refuted"
    assert found.measured == (
        "0 of 6 pass, 1 fail, 5 not resolved; refuted at 30 %, inconclusive at 10, 20 %; worst (large, skip 30 %): "
        "67.6 % [46.6 %, 83.6 %]"
    )
    found = judged("C3", [(NAN, NAN, NAN)] * 6)  # the gradient itself is lost
    assert (found.verdict, found.low) == ("inconclusive", None)
    assert (
        found.measured == "0 of 6 pass, 6 not resolved; worst (small, skip 10 %): not resolved, on-policy noise 1.0 %"
    )
    found = judged("C3", [(NAN, 0.0, 0.09)] * 6, noise=0.634)
    assert (found.verdict, found.measured) == ("supported", "6 of 6 pass; worst (small, skip 10 %): ≤ 9.0 %")


@pytest.mark.parametrize("claim", ["C1", "C2", "C5", "C6"])
def test_what_has_no_spread_decides_nothing(claim: str) -> None:
    value = EXAMPLES[claim][0][0]
    found = judged(claim, [(value, value, value)] * (2 if claim == "C6" else 6))
    assert found.verdict == "inconclusive"
    assert found.counts == "0 of 2 pass, 2 without spread" if claim == "C6" else "0 of 6 pass, 6 without spread"
    assert (found.low, found.high) == (None, None)


def test_below_zero_and_beyond_the_margin_are_two_facts() -> None:
    found = judged("C5", [(-0.142, -0.244, -0.04), *[(0.0, -0.02, 0.02)] * 5])
    assert found.verdict == "inconclusive"
    assert found.measured.startswith("5 of 6 pass, 1 undecided; supported at 20, 30 %, inconclusive at 10 %; worst ")
    assert "worst (small, stories, heldout, skip 10 %): -14.2 [-24" in found.measured
    assert "; 0 beyond the margin; 1 below 0, 0 above 0; " in found.measured
    far_off = judged("C5", [(-0.20, -0.25, -0.15)] * 6)
    assert "; 6 beyond the margin; 6 below 0, 0 above 0; " in far_off.measured


def test_parity_is_assessable_only_where_the_baseline_learned_and_the_start_is_not_on_par() -> None:
    on_par = [(0.0, -0.01, 0.01)] * 6
    found = judged("C5", on_par)
    assert found.verdict == "supported"
    assert found.measured.endswith("; ±5 points are 25 % of the baseline's gain")
    # A gain of 10 points is not shown; nor would one of 0 differ from nested runs that learn nothing.
    for gain in ([0.09, 0.1, 0.11], [-0.01, 0.0, 0.01]):
        found = judged("C5", on_par, gain=gain)
        assert (found.verdict, found.counts) == ("not assessable", "0 of 6 pass, 6 not assessable")
        assert "gain of" not in found.measured
        reasons = set(cells_table([found])["reason"])
        assert reasons == {"not assessable: the baseline is not shown to gain 10 points"}
    # Within a margin of 25 points the start model, 20 points below, is on par itself.
    wide = CONFIG.model_copy(update={"evaluation": CONFIG.evaluation.model_copy(update={"parity_margin": 0.25})})
    runs = accuracies([], [GAINS, GAINS])
    assert obstacles(runs, CONFIG) == {}
    assert set(obstacles(runs, wide)) == {(size, "stories", "heldout") for size in CONFIG.sizes}
    assert set(obstacles(runs, wide).values()) == {"the model that it starts from is not shown to be beyond the margin"}
    # One size alone has learned: the other's cells are left out, and nothing is supported for all.
    mixed = claim_rows(
        accuracies([[-0.01, 0.0, 0.01]] * 6, [GAINS, [0.0, 0.01, 0.02]]),
        *(rows(CELLS, [], ("speedup", "speedup_low", "speedup_high")) for _ in range(2)),
        rows(CELLS, [], ("a", "b", "c"), correction="", noise_floor=0.0),
        *(pd.DataFrame(), pd.DataFrame(), CONFIG),
    )
    assert next((one.verdict, one.counts) for one in mixed if one.id == "C5-base") == (
        "inconclusive",
        "3 of 6 pass, 3 not assessable",
    )


def test_it_is_said_where_a_start_model_that_samples_sharply_is_as_accurate() -> None:
    """With gains of 19 to 21 points over 0.3: at T = 0.5 of 0.49 it is level in one size, and 10 points below in the
    other. Of two temperatures the better counts.
    """
    evaluation = CONFIG.evaluation.model_copy(update={"start_temperatures": (0.7, 0.5)})
    config = CONFIG.model_copy(update={"evaluation": evaluation})
    runs = accuracies([], [GAINS, GAINS])
    start = runs[runs["correction"] == "pretrained"]

    def note(of_runs: pd.DataFrame, of: Config = config) -> list[str]:
        empty = rows(CELLS, [], ("speedup", "speedup_low", "speedup_high"))
        nothing = rows(CELLS, [], ("a", "b", "c"), correction="", noise_floor=0.0)
        claims = claim_rows(of_runs, empty, empty, nothing, pd.DataFrame(), pd.DataFrame(), of)
        (found,) = (one.measured for one in claims if one.id == "C6")
        return [part for part in found.split("; ") if "T =" in part]

    def with_start(*of_sizes: float) -> pd.DataFrame:
        sharp = [
            start.assign(
                metric=f"sampled at T = {name}", value=start["size"].map(dict(zip(CONFIG.sizes, of, strict=True)))
            )
            for name, of in (("0.7", (0.35, 0.35)), ("0.5", of_sizes))
        ]
        return pd.concat([runs, *sharp])

    assert note(runs) == []  # not run
    assert note(with_start(0.4, 0.4)) == []
    for at_0_5, count in (((0.49, 0.4), 1), ((0.55, 0.49), 2)):
        assert note(with_start(*at_0_5)) == [
            "sampled at T = 0.7 or 0.5, the model that the baseline starts from is not shown to be less accurate than "
            f"it in {count} of 2 cells"
        ]
    # Without an interval over seeds nothing is shown, neither way.
    assert note(with_start(0.55, 0.49).query("seed == 1 or seed.isna()")) == []
    greedy = config.model_copy(update={"evaluation": evaluation.model_copy(update={"headline": "greedy"})})
    assert note(pd.concat([with_start(0.55, 0.49), runs.assign(metric="greedy")]), greedy) == []


def beyond(*halves: float) -> list[CellVerdict | None]:
    """The verdicts, together, of cells that are so many half-widths above a limit of 1; of two units each."""
    statement = replace(STATEMENTS["C4"], limits=Limits(high=1), scale=UNBOUNDED)
    found = {place: Interval(1 + half, half, 2 + half, 2, "t") for place, half in enumerate(halves)}
    # Of a claim without benchmarks, whose keys are (size, skip).
    cells = judge_all({("small", place): interval for place, interval in found.items()}, statement)
    assert all((cell.reason == FAILS_ALONE) == (cell.verdict == "undecided") for cell in cells.values())
    return [cell.verdict for cell in cells.values()]


def test_cells_fail_among_as_many_as_there_are() -> None:
    """With 1 degree of freedom p is 0.025 over the number of half-widths, but for a trifle (Cauchy): of m cells the
    first must be m half-widths beyond, the next m - 1.
    """
    assert beyond(1.05) == ["fails"]
    assert beyond(3.1, 2.1, 1.05) == ["fails"] * 3
    assert beyond(1.05, 2.1, 3.1) == ["fails"] * 3  # in whatever order
    assert beyond(2.9, 2.1, 1.05) == ["undecided"] * 3
    assert beyond(3.1, 1.9, 1.05) == ["fails", "undecided", "undecided"]
    assert beyond(1.95, 1.95) == ["undecided"] * 2
    assert beyond(3.1, 1.9, -2.0) == ["fails", "undecided", "passes"]  # what passes is one of them all the same


def test_true_claims_of_many_cells_are_refuted_in_one_of_forty_experiments_at_most() -> None:
    rng, statement = np.random.default_rng(0), replace(STATEMENTS["C5"], limits=Limits(high=0), scale=UNBOUNDED)
    refuted, single = [], []
    for values in rng.normal(0, 1, (1500, 12, 4)):  # twelve cells of four seeds, at the very limit
        found = {("small", place): t_interval(of_cell) for place, of_cell in enumerate(values)}
        refuted.append("fails" in {cell.verdict for cell in judge_all(found, statement).values()})
        single.append("fails" in {statement.limits.judge(one) for one in found.values()})
    assert np.mean(refuted) <= 0.025 + 3 * (0.025 * 0.975 / 1500) ** 0.5
    assert np.mean(single) > 0.2  # without it: 1 - 0.975 ** 12 = 0.26


def test_skips_with_other_verdicts_are_told_apart() -> None:
    fails, lost = EXAMPLES["C3"][1], (NAN, 0.0, 0.3)
    found = judged("C3", [lost, (0.02, 0.0, 0.05), fails] * 2, noise=0.2)
    assert found.counts == (
        "2 of 6 pass, 2 fail, 2 not resolved; supported at 20 %, refuted at 30 %, inconclusive at 10 %"
    )
    assert found.verdict == "partly"
    assert judged("C3", [fails] * 6).counts == "0 of 6 pass, 6 fail"


def test_a_rise_that_is_not_shown_is_inconclusive_and_a_fall_is_partly() -> None:
    rising = [(1.1, 1.05, 1.2), (1.2, 1.1, 1.3), (1.3, 1.2, 1.4)]
    assert judged("C1", [*rising, *rising]).verdict == "supported"
    flat = judged("C1", [*rising, rising[0], rising[2], (1.25, 1.2, 1.4)])
    assert flat.verdict == "inconclusive"
    assert flat.measured.startswith("6 of 6 pass")
    assert flat.measured.endswith("; not shown to rise with every skip")
    falling = judged("C1", [*rising, rising[0], (1.5, 1.45, 1.6), rising[2]])
    assert falling.verdict == "partly"
    assert falling.measured.endswith("; does not rise with every skip")


def test_a_summary_says_how_many_corrections_have_which_verdict() -> None:
    table = pd.DataFrame(
        {
            "id": ["C3-base", "C3-unit", "C3-is_sequence", "C6"],
            "verdict": ["refuted", "refuted", "inconclusive", "refuted"],
            "counts": ["0 of 6 pass, 2 fail, 4 not resolved", "6 fail", "6 not resolved", "1 fail"],
            "claim": ["Unbiased, with 'base'", "Unbiased, with 'unit'", "Unbiased, with 'is_sequence'", "Gains"],
        }
    )
    refuted = "refuted: base (0 of 6 pass, 2 fail, 4 not resolved), unit (6 fail)"
    assert verdicts(table).to_numpy().tolist() == [
        ["C3", "2 refuted, 1 inconclusive", f"Unbiased – {refuted}; inconclusive: is_sequence (6 not resolved)"],
        ["C6", "refuted", "Gains (1 fail)"],
    ]
