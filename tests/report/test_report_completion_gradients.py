"""Bias by distinct completions: sums over problems, their intervals, and what the report makes of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import make_config, write, write_results

from nested_reft.config.experiment import Config, parse_config
from nested_reft.report.claims.tables import write_claims
from nested_reft.report.collect.collect import collect
from nested_reft.report.figures.completion_gradients import completion_gradients
from nested_reft.report.registry import FIGURES, PRESENTATION_TABLES, asked
from nested_reft.report.statistics.completion_gradients import (
    Sums,
    direction,
    problem_bias,
    scale,
    unseen_bound,
    variance_ratio,
)
from nested_reft.report.statistics.intervals import Interval
from nested_reft.report.tables.completion_gradients import completion_gradients_table
from nested_reft.report.tidy import read_table

# Two problems of the same direction, one of another length.
HALVED = {"on_policy": [4.0, 1.0, 1.0], "own": [1.0, 0.25, 0.25], "cross": [2.0, 0.5, 0.5]}
DIMENSIONS, PROBLEMS, REPLICATIONS = 30, 40, 200


def sums(covered: float = 1.0, **products: list[float]) -> Sums:
    given = {name: np.array(values) for name, values in products.items()}
    n = len(given["own"])
    moments = {"on_policy_moment": np.full(n, 9.0), "own_moment": np.full(n, 5.0), "covered": np.full(n, covered)}
    return Sums(**{**moments, **given})


def test_half_the_gradient_is_a_bias_of_scale_alone() -> None:
    found = sums(**HALVED)
    assert problem_bias(found).estimate == pytest.approx(0.5)
    assert scale(found).estimate == pytest.approx(0.5)
    assert direction(found).estimate == pytest.approx(1)


def test_the_quantities_by_hand() -> None:
    """sum <a, a> = 6, <o, o> = 8, <a, o> = 3: bias sqrt((8 - 6 + 6) / 6), scale 1/2, cosine 3 / sqrt(48). Single
    completions: (15 - 8) / (27 - 6). A tenth of b's probability unseen: sqrt(3 * 0.1 * 5 / 6).
    """
    found = sums(0.9, on_policy=[1.0, 2.0, 3.0], own=[2.0, 2.0, 4.0], cross=[0.5, 1.0, 1.5])
    assert problem_bias(found).estimate == pytest.approx(math.sqrt(8 / 6))
    assert scale(found).estimate == pytest.approx(0.5)
    assert direction(found).estimate == pytest.approx(3 / math.sqrt(48))
    assert variance_ratio(found).estimate == pytest.approx(7 / 21)
    assert unseen_bound(found) == pytest.approx(math.sqrt(0.25))


def test_the_jackknife_by_hand() -> None:
    """Scale, with one problem left out each: 2/4, 1/3 and 1/2 of sums; t_{0.975, 2} = 4.302653."""
    found = scale(sums(on_policy=[1.0, 2.0, 2.0], own=[1.0, 1.0, 1.0], cross=[0.0, 1.0, 1.0]))
    left_out = np.array([2 / 4, 1 / 3, 1 / 3])
    error = math.sqrt(2 / 3 * ((left_out - left_out.mean()) ** 2).sum())
    assert found.estimate == pytest.approx(2 / 5)
    assert (found.low, found.high) == pytest.approx((0.4 - 4.302653 * error, 0.4 + 4.302653 * error), rel=1e-6)
    assert found.n == 3


def test_what_noise_leaves_no_estimate_of_has_an_upper_bound_or_nothing() -> None:
    squares = {"on_policy": [1.0, 1.0, 1.2], "own": [1.0, 0.9, 1.2], "cross": [1.0, 1.0, 1.2]}
    negative = problem_bias(sums(**squares))
    assert math.isnan(negative.estimate)
    assert negative.low == 0
    assert 0 < negative.high < 0.5
    lost = sums(on_policy=[-1.0, 0.0, 0.5], own=[1.0, 1.0, 1.0], cross=[0.1, 0.1, 0.1])
    for quantity in (problem_bias, scale, direction):
        assert math.isnan(quantity(lost).estimate)
        assert not quantity(lost).exists
    assert math.isnan(unseen_bound(lost))


def drawn(rng: np.random.Generator, noise: float, turn: float) -> Sums:
    """Problems whose gradients have lengths of their own: o is half of a, and so much at a right angle. Two replicates
    of each with noise, of which half is common to a and o, as they are from the same pools.
    """
    a = rng.normal(0, 1, (PROBLEMS, DIMENSIONS)) * rng.gamma(2, 1, (PROBLEMS, 1)) / math.sqrt(DIMENSIONS)
    aside = rng.normal(0, 1, (PROBLEMS, DIMENSIONS))
    aside -= (aside * a).sum(axis=1, keepdims=True) / (a * a).sum(axis=1, keepdims=True) * a
    o = 0.5 * a + turn * aside * np.linalg.norm(a, axis=1, keepdims=True) / np.linalg.norm(aside, axis=1, keepdims=True)
    common, own, other = (noise * rng.normal(0, 1, (2, PROBLEMS, DIMENSIONS)) / math.sqrt(DIMENSIONS) for _ in range(3))
    (a1, a2), (o1, o2) = a + common + own, o + common + other
    n = np.zeros(PROBLEMS)
    return Sums((a1 * a2).sum(1), (o1 * o2).sum(1), ((a1 * o2).sum(1) + (a2 * o1).sum(1)) / 2, n, n, n)


@pytest.mark.parametrize(
    ("of", "truth"),
    [
        (problem_bias, lambda turn: math.hypot(0.5, turn)),
        (scale, lambda turn: 0.5),
        (direction, lambda turn: 0.5 / math.hypot(0.5, turn)),
    ],
)
@pytest.mark.parametrize(("noise", "turn"), [(0.5, 0.3), (1.5, 0.8)])
def test_intervals_hold_the_truth_as_often_as_they_say(
    of: Callable[[Sums], Interval], truth: Callable[[float], float], noise: float, turn: float
) -> None:
    rng = np.random.default_rng(0)
    found = [of(drawn(rng, noise, turn)) for _ in range(REPLICATIONS)]
    covered = np.mean([interval.low <= truth(turn) <= interval.high for interval in found])
    assert 0.9 <= covered <= 0.99


def test_noise_is_no_bias_and_no_length() -> None:
    """Over many experiments the sums of products of two replicates are those without noise; plain squares are not."""
    rng = np.random.default_rng(1)
    many = [drawn(rng, 1.5, 0.0) for _ in range(REPLICATIONS)]
    total = {name: sum(getattr(one, name).sum() for one in many) for name in ("on_policy", "own", "cross")}
    assert total["cross"] / total["on_policy"] == pytest.approx(0.5, abs=0.02)
    squared = (total["own"] - 2 * total["cross"] + total["on_policy"]) / total["on_policy"]
    assert squared == pytest.approx(0.25, abs=0.02)


# --- the report


def config_of(**more: Any) -> Config:
    settings = json.loads(make_config(sizes=1, gradients=("unit", "is_sequence")).canonical_json())
    settings["gradients"]["by_completion"] = {"problems": 8, "pool": 16}
    return parse_config(settings | more)


def record(skip: int, share: float) -> dict[str, Any]:
    """`unit` has so much of the on-policy gradient, `is_sequence` all of it, but for a little whose sum is 0."""
    problems = []
    for number in range(8):
        length, little = 1.0 + number, 1e-3 * (1, -1, -1, 1, 2, -2, -2, 2)[number]
        along = {"unit": share + little, "is_sequence": 1 + little}
        corrections = {
            name: {"own": of**2 * length, "on_policy": of * length, "second_moment": (of**2 + 3 + little) * length}
            for name, of in along.items()
        }
        fixed = {"skipped_layers": [1], "distinct": 10.5, "covered_target": 0.85, "covered_behavior": 0.75}
        rewards = {"reward_target": 0.5, "reward_behavior": 0.25}
        own = {"problem": f"p{number}", "on_policy": length, "second_moment": 2 * length, "corrections": corrections}
        problems.append({**fixed, **rewards, **own})
    key = {"size": "small", "skip": skip, "num_parameters": 100, "coordinates": 50, "pool": 16}
    return {**key, "problems": problems}


def report(root: Path, config: Config, skips: tuple[int, ...] = (10, 20)) -> None:
    write_results(root, config)
    for skip in skips:
        write(root / f"completion_gradients/small/skip{skip}.json", json.dumps(record(skip, 0.5)))
    collect(root, config)


def test_the_claims_are_judged_by_it_and_say_so(tmp_path: Path) -> None:
    config = config_of()
    report(tmp_path, config)
    write_claims(tmp_path, config)
    claims = read_table(tmp_path, "claims").set_index("id")
    assert claims.loc["C3-unit", "verdict"] == "refuted"
    assert claims.loc["C3-is_sequence", "verdict"] == "supported"
    assert claims.loc["C3-unit", "claim"] == (
        "The gradient estimate is unbiased: within 10 % of the on-policy gradient of each problem, by distinct "
        "completions, with 'unit'"
    )
    assert "50.0 %" in claims.loc["C3-unit", "measured"]
    # Of single completions: (0.25 + 3 - 0.25) / (2 - 1) and the same for is_sequence.
    assert claims.loc["C4-unit", "verdict"] == "refuted"
    assert "3.00×" in claims.loc["C4-unit", "measured"]
    assert claims.loc["C4-unit", "figure"] == "figures/completion_gradients.png"


def test_what_the_configuration_no_longer_asks_for_is_not_judged(tmp_path: Path) -> None:
    report(tmp_path, config_of())
    assert len(read_table(tmp_path, "completion_gradients")) == 4
    for config in (make_config(sizes=1, gradients=("unit", "is_sequence")), config_of(parts=["training"])):
        assert read_empty(tmp_path, config).empty


def test_what_was_not_measured_by_it_is_judged_by_batches(tmp_path: Path) -> None:
    config = config_of()
    report(tmp_path, config, skips=())
    write_claims(tmp_path, config)
    claims = read_table(tmp_path, "claims").set_index("id")
    assert "distinct" not in claims.loc["C3-unit", "claim"]
    assert claims.loc["C3-unit", "verdict"] != "not run"


def test_the_table_and_the_figure_show_scale_and_direction(tmp_path: Path) -> None:
    config = config_of()
    report(tmp_path, config, skips=(10,))
    tidy = read_table(tmp_path, "completion_gradients")
    table, page = completion_gradients_table(tidy, config)
    first, second, third, _ = table.to_dict("records")
    assert (first["correction"], first["skip %"], first["problems"]) == ("unit", "10", "8")
    assert first["relative bias (%)"].startswith("50.0 [")
    assert first["scale"].startswith("0.50 [")
    assert first["cosine"].startswith("1.00")
    assert (first["seen, π (%)"], first["seen, b (%)"], first["distinct"]) == ("85", "75", "10.5")
    # sqrt(0.25 * (0.25 + 3)) = 0.90
    assert first["unseen at most (%)"] == "90"
    assert second["relative bias (%)"].startswith("0.2 [")
    assert third["scale"] == "not run"
    assert "16 completions" in page.notes
    figure = completion_gradients(tidy, config)
    left, right = figure.axes
    assert any("8 problems" in text.get_text() for text in figure.texts)
    assert [text.get_text() for text in right.texts] == ["not run"]
    points = [tuple(float(v[0]) for v in line.get_data()) for line in left.lines if line.get_linestyle() == "None"]
    assert points[0] == pytest.approx((0.5, 0.0), abs=1e-3)
    assert points[1] == pytest.approx((1.0, 0.0), abs=1e-3)


def test_a_variance_without_bound_is_a_power_of_ten(tmp_path: Path) -> None:
    """Of a completion that b hardly ever writes, the whole ratio is huge, and so is its square."""
    config = config_of()
    report(tmp_path, config, skips=())
    huge = record(10, 0.5)
    huge["problems"][0]["corrections"]["is_sequence"]["second_moment"] = 3e26
    write(tmp_path / "completion_gradients/small/skip10.json", json.dumps(huge))
    collect(tmp_path, config)
    row = completion_gradients_table(read_table(tmp_path, "completion_gradients"), config)[0].to_dict("records")[1]
    assert re.fullmatch(r"\de\+\d\d( \[.*\])?", row["variance ratio"])
    assert re.fullmatch(r"\de\+\d\d", row["unseen at most (%)"])
    write_claims(tmp_path, config)
    measured = read_table(tmp_path, "claims").set_index("id").loc["C4-is_sequence", "measured"]
    assert not re.search(r"\d{6}", measured)


def test_what_has_no_gradient_is_not_resolved(tmp_path: Path) -> None:
    config = config_of()
    report(tmp_path, config, skips=())
    nothing = record(10, 0.5)
    for problem in nothing["problems"]:
        problem |= {"on_policy": 0.0, "second_moment": 0.0}
        zero = {"own": 0.0, "on_policy": 0.0, "second_moment": 0.0}
        problem["corrections"] = dict.fromkeys(problem["corrections"], zero)
    write(tmp_path / "completion_gradients/small/skip10.json", json.dumps(nothing))
    collect(tmp_path, config)
    tidy = read_table(tmp_path, "completion_gradients")
    first = completion_gradients_table(tidy, config)[0].to_dict("records")[0]
    quantities = ("relative bias (%)", "scale", "cosine", "variance ratio", "unseen at most (%)")
    assert {first[name] for name in quantities} == {"not resolved"}
    left, right = completion_gradients(tidy, config).axes
    assert [text.get_text() for axis in (left, right) for text in axis.texts] == ["not resolved", "not run"]
    write_claims(tmp_path, config)
    claims = read_table(tmp_path, "claims").set_index("id")
    assert claims.loc["C3-unit", "verdict"] == "inconclusive"
    assert "not resolved" in claims.loc["C3-unit", "measured"]


def test_it_is_asked_for_only_if_it_is_measured(tmp_path: Path) -> None:
    plain = make_config(sizes=1)
    _, page = completion_gradients_table(read_empty(tmp_path, plain), plain)
    assert page.notes.startswith("Not run")
    for entries, name in ((PRESENTATION_TABLES, "completion_bias"), (FIGURES, "completion_gradients")):
        assert name in asked(entries, config_of())
        assert name not in asked(entries, plain)
        assert name not in asked(entries, config_of(parts=["training"]))


def read_empty(root: Path, config: Config) -> Any:
    collect(root, config)
    return read_table(root, "completion_gradients")


@pytest.mark.parametrize("key", ["top_k", "top_p"])
def test_truncated_sampling_has_no_probabilities_of_all_completions(key: str) -> None:
    training = json.loads(make_config(sizes=1).canonical_json())["training"] | {key: 1}
    with pytest.raises(ValueError, match=rf"gradients.by_completion: needs .* training.{key} cuts"):
        config_of(training=training)
