"""Bias and variance of gradient estimates: what is known of made-up vectors is found from their inner products."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from synthetic import Effects, collect_results, gradient_record, gradient_sets, make_config, write_results

from nested_reft.report.collect.collect import collect
from nested_reft.report.statistics.comparisons import gradient_biases
from nested_reft.report.statistics.gradients import (
    Bias,
    Grams,
    bias_verdict,
    cosine,
    plug_in_bias,
    relative_bias,
    scale,
    variance_ratio,
)
from nested_reft.report.statistics.intervals import Interval
from nested_reft.report.tables.gradients import gradient_bias_table
from nested_reft.report.tidy import read_table

REPLICATIONS = 200


def grams(a: np.ndarray, r: np.ndarray, o: np.ndarray) -> Grams:
    return Grams(a @ a.T, r @ r.T, a @ r.T, o @ o.T, a @ o.T)


def drawn(batches: int, effects: Effects, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, r, corrected = gradient_sets(["x"], batches, effects, np.random.default_rng(seed))
    return a, r, corrected["x"]


def effects(bias: float = 0.0, variance: float = 1.0, noise: float = 0.3) -> Effects:
    return Effects(bias={"x": bias}, variance={"x": variance}, gradient_noise=noise)


def share_covered(of: Callable[[Grams], Interval], truth: float, made_of: Effects, batches: int = 16) -> float:
    found = [of(grams(*drawn(batches, made_of, seed))) for seed in range(REPLICATIONS)]
    return float(np.mean([interval.low <= truth <= interval.high for interval in found]))


def with_noise(found: Interval, noise: float) -> Bias:
    return Bias(**vars(found), noise=noise)


def squared_bias(a: np.ndarray, r: np.ndarray, o: np.ndarray) -> float:
    """The relative squared bias from the vectors, pair by pair."""
    pairs = [(j, k) for j in range(len(a)) for k in range(len(a)) if j != k]
    difference, pooled = o - a, (a + r) / 2
    return float(sum(difference[j] @ difference[k] for j, k in pairs) / sum(pooled[j] @ pooled[k] for j, k in pairs))


def test_plug_in_is_the_distance_of_the_means() -> None:
    a, r, o = drawn(5, effects(bias=0.4))
    norm = np.linalg.norm(a.mean(axis=0))
    assert plug_in_bias(grams(a, r, o)) == pytest.approx(np.linalg.norm(o.mean(axis=0) - a.mean(axis=0)) / norm)
    assert plug_in_bias(grams(a, r, o).control) == pytest.approx(np.linalg.norm(r.mean(axis=0) - a.mean(axis=0)) / norm)


def test_relative_bias_and_its_jackknife_are_those_of_the_vectors() -> None:
    a, r, o = drawn(6, effects(bias=0.8))
    found = relative_bias(grams(a, r, o))
    assert found.estimate == pytest.approx(math.sqrt(squared_bias(a, r, o)))
    left_out = [squared_bias(*(np.delete(vectors, j, axis=0) for vectors in (a, r, o))) for j in range(6)]
    error = math.sqrt(5 / 6 * np.sum((np.array(left_out) - np.mean(left_out)) ** 2))
    # t_{0.975, 5} = 2.570582
    assert found.high == pytest.approx(math.sqrt(squared_bias(a, r, o) + 2.570582 * error), rel=1e-6)
    assert found.low == pytest.approx(math.sqrt(squared_bias(a, r, o) - 2.570582 * error), rel=1e-6)
    assert found.n == 6


@pytest.mark.parametrize("bias", [0.0, 0.2, 1.0])
def test_noise_is_no_bias(bias: float) -> None:
    made_of = effects(bias=bias, variance=2.0, noise=1.0)
    many = [grams(*drawn(12, made_of, seed)) for seed in range(REPLICATIONS)]
    estimates = np.array([relative_bias(g).estimate for g in many])
    if bias == 0:
        assert np.isnan(estimates).any()  # of negative squares, which have no root
    assert np.mean(np.nan_to_num(estimates) ** 2) == pytest.approx(bias**2, abs=0.02)
    # The plug-in takes noise for bias: variance of o - a is (2 + 1) / 2 + (sqrt 2 - 1)^2 / 2, over 12 batches.
    noise = (1.5 + (math.sqrt(2) - 1) ** 2 / 2) / 12
    assert np.mean([plug_in_bias(g) ** 2 for g in many]) == pytest.approx((bias**2 + noise) / (1 + 1 / 12), rel=0.05)


@pytest.mark.parametrize(
    ("of", "truth", "made_of", "least"),
    [
        (relative_bias, 0.1, effects(bias=0.1), 0.91),
        (relative_bias, 0.5, effects(bias=0.5), 0.91),
        *((variance_ratio, ratio, effects(bias=0.3, variance=ratio), 0.91) for ratio in (0.5, 1.0, 4.0)),
        # The bias is orthogonal to the gradient, whose norm is 1.
        *((cosine, 1 / math.sqrt(1 + bias**2), effects(bias=bias), 0.9) for bias in (0.3, 1.0)),
        *((scale, 1.0, effects(bias=bias), 0.9) for bias in (0.3, 1.0)),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    of: Callable[[Grams], Interval], truth: float, made_of: Effects, least: float
) -> None:
    assert least <= share_covered(of, truth, made_of) <= 0.99


def test_intervals_of_no_bias_hold_zero_more_often() -> None:
    assert share_covered(relative_bias, 0.0, effects(variance=3.0)) >= 0.95
    assert share_covered(lambda g: relative_bias(g.control), 0.0, effects(bias=2.0)) >= 0.95


def test_variance_ratio_is_that_of_the_sample_variances() -> None:
    a, r, o = drawn(5, effects(variance=2.0))
    traces = [vectors.var(axis=0, ddof=1).sum() for vectors in (a, r, o)]
    expected = traces[2] / ((traces[0] + traces[1]) / 2)
    assert variance_ratio(grams(a, r, o)).estimate == pytest.approx(expected)


def test_a_cosine_stays_within_its_bounds() -> None:
    a, _, _ = drawn(5, effects(noise=2.0))
    assert cosine(grams(a, a, a)).estimate == pytest.approx(1)
    assert cosine(grams(a, a, -a)).estimate == pytest.approx(-1)
    for seed in range(20):
        found = cosine(grams(*drawn(4, effects(noise=2.0), seed)))
        assert math.isnan(found.estimate) or -1 <= found.low <= found.estimate <= found.high <= 1


def test_a_scale_is_the_length_along_the_on_policy_gradient() -> None:
    a, r, _ = drawn(5, effects(noise=0.0))
    for factor in (0.5, -2.0):
        assert scale(grams(a, r, factor * a)).estimate == pytest.approx(factor)
    along = a.mean(axis=0)
    across = np.roll(along, 1) - (np.roll(along, 1) @ along) / (along @ along) * along
    found = grams(a, r, 0.5 * a + 3 * across)
    assert scale(found).estimate == pytest.approx(0.5, abs=1e-9)
    assert relative_bias(found).estimate > 0.5


def test_a_gradient_lost_in_its_noise_has_no_relative_bias() -> None:
    a, r, o = drawn(4, effects())
    centred = a - a.mean(axis=0)
    lost = grams(centred, centred, o)
    assert math.isnan(relative_bias(lost).estimate)
    assert math.isnan(cosine(lost).estimate)
    assert math.isnan(scale(lost).estimate)
    assert bias_verdict(with_noise(relative_bias(lost), 0.0), margin=0.1) == "not resolved"
    # Neither do two negative squares make a cosine.
    assert math.isnan(cosine(grams(centred, centred, centred)).estimate)
    # The variance is there all the same.
    assert variance_ratio(lost).exists
    assert math.isnan(variance_ratio(grams(a, r, np.zeros_like(a))).estimate)


@pytest.mark.parametrize(
    ("bias", "batches", "noise", "verdict"),
    [
        (0.0, 32, 0.3, "unbiased"),
        (0.5, 32, 0.3, "biased"),
        (0.0, 4, 1.0, "not resolved"),
        (0.1, 32, 0.3, "inconclusive"),
    ],
)
def test_verdict_on_made_up_gradients(bias: float, batches: int, noise: float, verdict: str) -> None:
    found = grams(*drawn(batches, effects(bias, noise=noise)))
    assert bias_verdict(with_noise(relative_bias(found), plug_in_bias(found.control)), margin=0.1) == verdict


def test_verdict_by_rule() -> None:
    def interval(low: float, high: float) -> Interval:
        return Interval((low + high) / 2, low, high, 8, "jackknife over batches")

    for noise, between in ((0.1, "inconclusive"), (0.11, "not resolved"), (math.nan, "not resolved")):
        assert bias_verdict(with_noise(interval(0.0, 0.1), noise), 0.1) == "unbiased"
        assert bias_verdict(with_noise(interval(0.09, 0.11), noise), 0.1) == between
        assert bias_verdict(with_noise(interval(0.11, 0.2), noise), 0.1) == "biased"


# --- from the record to the tables ------------------------------------------------------------------------------

CONFIG = make_config(sizes=1, benchmarks=1, skips=(10, 20), corrections=("base",), gradients=("base", "unit"), steps=1)
FILE = "gradients/small/skip10.json"


def test_the_table_has_the_columns_of_the_contract_first(tmp_path: Path) -> None:
    collect_results(tmp_path, CONFIG, Effects(bias={"unit": 0.5}, variance={"unit": 3.0}))
    header = (tmp_path / "tables/gradients.csv").read_text().splitlines()[0].split(",")
    assert header[:7] == ["size", "skip", "correction", "bias", "noise_floor", "cosine", "variance_ratio"]
    table = read_table(tmp_path, "gradients")
    assert list(zip(table["skip"], table["correction"], strict=True)) == list(product((10, 20), ("base", "unit")))
    unit = table.set_index(["skip", "correction"]).loc[(10, "unit")]
    assert unit["bias_low"] < 0.5 < unit["bias_high"]
    assert unit["variance_low"] < 3.0 < unit["variance_high"]
    assert unit["cosine_low"] < 1 / math.sqrt(1.25) < unit["cosine_high"]
    assert unit["scale_low"] < 1 < unit["scale_high"]
    assert unit["control_low"] == 0
    assert unit["noise_floor"] == pytest.approx(0.3 / 4, rel=0.2)  # noise / sqrt(16 batches)
    assert (unit["n"], unit["completions"]) == (16, 4)


def test_corrections_and_skips_that_were_not_measured_are_absent(tmp_path: Path) -> None:
    write_results(tmp_path, CONFIG)
    (tmp_path / "gradients/small/skip20.json").unlink()
    record = json.loads((tmp_path / FILE).read_text())
    del record["corrections"]["unit"]
    (tmp_path / FILE).write_text(json.dumps(record))
    collect(tmp_path, CONFIG)
    table = read_table(tmp_path, "gradients")
    assert list(zip(table["skip"], table["correction"], strict=True)) == [(10, "base")]
    found = gradient_biases(table, CONFIG)
    assert [cell for cell, bias in found.items() if bias] == [("small", "base", 10)]
    shown = gradient_bias_table(table, CONFIG)[0].set_index(["skip %", "correction"])
    assert shown.loc[("10", "base"), "verdict"] == "unbiased"
    assert shown.loc[("10", "unit"), "verdict"] == "not run"
    assert set(shown.loc[("20", "base"), ["scale", "cosine"]]) == {"not run"}
    assert shown.loc[("10", "base"), "scale"].startswith("0.99 [0.98, 1.00]")
    # A kept run may be older than the scale.
    older = gradient_bias_table(table.drop(columns=["scale", "scale_low", "scale_high"]), CONFIG)[0]
    assert older.set_index(["skip %", "correction"]).loc[("10", "base"), "scale"] == "not run"


def test_the_table_says_where_the_noise_hides_the_gradient(tmp_path: Path) -> None:
    write_results(tmp_path, CONFIG)
    record = gradient_record(CONFIG, "small", 10, Effects(), np.random.default_rng(0))
    centred = np.eye(16) - 1 / 16  # inner products of vectors whose mean is zero
    record |= {name: centred.tolist() for name in ("on_policy", "repeat", "on_policy_repeat")}
    (tmp_path / FILE).write_text(json.dumps(record))
    collect(tmp_path, CONFIG)
    shown = gradient_bias_table(read_table(tmp_path, "gradients"), CONFIG)[0].set_index(["skip %", "correction"])
    assert set(shown.loc[("10", "base"), ["relative bias (%)", "scale", "cosine", "verdict"]]) == {"not resolved"}
    assert shown.loc[("20", "base"), "verdict"] == "unbiased"
