"""Claims from made-up results: the table, its texts, and what was not run."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from synthetic import Effects, make_config, write_results

from nested_reft.config.experiment import Config
from nested_reft.report.claims.summary import MARKS, alarms, summary
from nested_reft.report.claims.tables import COLUMNS, write_claims
from nested_reft.report.collect.collect import collect
from nested_reft.report.statistics.comparisons import parity
from nested_reft.report.tidy import read_table

CONFIG = make_config(sizes=1, benchmarks=1, skips=(10, 20), corrections=("base", "unit", "retrace"), steps=2)


NO_NOISE = Effects()


def report(root: Path, config: Config = CONFIG, effects: Effects = NO_NOISE) -> dict[str, dict[str, object]]:
    write_results(root, config, effects)
    return claim(root, config)


def claim(root: Path, config: Config = CONFIG) -> dict[str, dict[str, object]]:
    collect(root, config)
    write_claims(root, config)
    return {str(row["id"]): row for row in read_table(root, "claims").to_dict("records")}


def test_everything_supported(tmp_path: Path) -> None:
    claims = report(tmp_path)
    assert {name: row["verdict"] for name, row in claims.items()} == {
        "C1": "supported", "C2": "supported", "C3-base": "supported", "C3-is_sequence": "supported",
        "C4-base": "supported", "C4-is_sequence": "supported", "C5-base": "supported", "C5-unit": "supported",
        "C5-retrace": "supported", "C6": "supported",
    }  # fmt: skip
    assert {row["paper"] for name, row in claims.items() if name != "C6"} == {"not available to us"}
    assert claims["C6"]["paper"] == "no claim of the paper"
    assert claims["C1"]["figure"] == "figures/throughput.png"
    assert claims["C1"]["command"] == "snakemake --cores all results/laptop/figures/throughput.png"
    # Skip 10 of 10 layers: speed-up 1 + 0.8 * 0.1, the same in every pair.
    assert claims["C1"]["low"] == pytest.approx(1.08)
    assert "worst (small, skip 10 %): 1.08×" in str(claims["C1"]["measured"])
    # Learned 0.25, by one answer of 50 problems x 4 samples more or less in two of three seeds: Student's t.
    assert claims["C6"]["low"] == pytest.approx(0.25 - 4.302653 * 0.005 / 3**0.5, abs=1e-3)
    # Step gain 0.2 at skip 10 of 10 layers.
    assert claims["C2"]["low"] == pytest.approx(1.02)
    header = (tmp_path / "tables" / "claims.csv").read_text().splitlines()[0]
    assert header.split(",") == COLUMNS


def test_everything_refuted(tmp_path: Path) -> None:
    gradients = {"base": 3.0, "is_sequence": 3.0}
    effects = Effects(
        rollout_gain=-0.5, step_gain=-0.2, learned=0.05, cost=2.0, bias=gradients, variance=gradients
    )  # fmt: skip
    claims = report(tmp_path, effects=effects)
    assert {row["verdict"] for row in claims.values()} == {"refuted"}
    # At skip 20 the loss is 0.4, all the baseline has above 0.05.
    assert "worst (small, stories, skip 20 %): -40.0 [-41.2, -38.8]" in str(claims["C5-unit"]["measured"])
    assert str(claims["C5-unit"]["measured"]).startswith("0 of 2 pass, 2 fail; ")
    assert str(claims["C5-unit"]["measured"]).endswith("; 2 beyond the margin; 2 below 0, 0 above 0")


def test_one_seed_gives_estimates_and_no_verdict(tmp_path: Path) -> None:
    claims = report(tmp_path, make_config(sizes=1, benchmarks=1, skips=(10,), seeds=(1,), steps=2))
    assert claims["C1"]["verdict"] == claims["C2"]["verdict"] == "supported"  # pairs, not seeds
    for name in ("C5-base", "C6"):
        assert claims[name]["verdict"] == "not run"
        assert "one seed, so no interval" in str(claims[name]["measured"])
        assert math.isnan(float(str(claims[name]["low"])))


def test_nothing_run(tmp_path: Path) -> None:
    claims = claim(tmp_path)
    assert {row["verdict"] for row in claims.values()} == {"not run"}
    assert claims["C2"]["measured"] == "not run"


def test_a_correction_outside_the_config_is_not_run(tmp_path: Path) -> None:
    claims = report(tmp_path, make_config(sizes=1, benchmarks=1, skips=(10,), corrections=("base",), steps=2))
    assert claims["C5-base"]["verdict"] == "supported"
    assert claims["C5-retrace"]["verdict"] == "not run"


def test_a_missing_benchmark_leaves_the_run_out(tmp_path: Path) -> None:
    config = make_config(sizes=1, benchmarks=2, skips=(10,), corrections=("base",), steps=2)
    write_results(tmp_path, config)
    for seed in config.seeds:
        (tmp_path / f"evaluations/small/stories/base/skip10/seed{seed}/steps.json").unlink()
    assert claim(tmp_path, config)["C5-base"]["verdict"] == "not run"


def test_only_seeds_of_both_are_paired(tmp_path: Path) -> None:
    config = make_config(sizes=1, benchmarks=1, skips=(10,), corrections=("base",), steps=2)
    write_results(tmp_path, config, Effects(noise=0.02))
    (tmp_path / "evaluations/small/stories/base/skip0/seed2/heldout.json").unlink()
    claim(tmp_path, config)
    runs = read_table(tmp_path, "runs").query("metric == 'sampled' and correction == 'base'")
    values = runs.set_index(["skip", "seed"])["value"]
    found = parity(runs, config, "sampled")["small", "stories", "base", 10]
    assert found is not None
    assert found.n == 2
    assert found.estimate == pytest.approx((values[10, 1] - values[0, 1] + values[10, 3] - values[0, 3]) / 2)


def test_command_names_the_config_file(tmp_path: Path) -> None:
    collect(tmp_path, CONFIG)
    write_claims(tmp_path, CONFIG, options="--configfile config/smoke.yaml")
    command = read_table(tmp_path, "claims")["command"][0]
    assert command == "snakemake --cores all results/laptop/figures/throughput.png --configfile config/smoke.yaml"


def test_gradients_are_judged_by_correction(tmp_path: Path) -> None:
    claims = report(tmp_path, effects=Effects(bias={"base": 0.5}, variance={"base": 5.0}))
    verdicts = {name: row["verdict"] for name, row in claims.items() if name[:2] in ("C3", "C4")}
    assert verdicts == {
        "C3-base": "refuted", "C3-is_sequence": "supported", "C4-base": "refuted", "C4-is_sequence": "supported"
    }  # fmt: skip
    bias, variance = claims["C3-base"], claims["C4-base"]
    assert str(bias["measured"]).startswith("0 of 2 pass, 2 fail; ")
    assert str(claims["C3-is_sequence"]["measured"]).startswith("2 of 2 pass; ")
    assert str(variance["measured"]).startswith("0 of 2 pass, 2 fail; ")
    assert float(str(bias["low"])) < 0.5 < float(str(bias["high"]))
    assert float(str(variance["low"])) < 5.0 < float(str(variance["high"]))
    assert "within 10 % of the on-policy gradient" in str(bias["claim"])
    assert bias["figure"] == "figures/gradients.png"


def test_too_few_batches_are_neither_unbiased_nor_biased(tmp_path: Path) -> None:
    config = make_config(sizes=1, benchmarks=1, skips=(10,), corrections=("base",), steps=1, batches=4)
    row = report(tmp_path, config, Effects(gradient_noise=1.0))["C3-base"]
    assert row["verdict"] == "inconclusive"
    assert re.fullmatch(
        r"0 of 1 pass, 1 not resolved; worst \(small, skip 10 %\): not resolved \[0.0 %, [\d.]+ %\], "
        r"on-policy noise ([\d.]+) %",
        str(row["measured"]),
    )
    (cell,) = read_table(tmp_path, "cells").query("id == 'C3-base'").to_dict("records")
    noise = read_table(tmp_path, "gradients")["noise_floor"].iloc[0]
    assert noise > config.gradients.bias_margin
    assert (cell["verdict"], cell["reason"]) == ("undecided", f"not resolved: on-policy noise {100 * noise:.1f} %")


def test_gradients_lost_in_their_noise_are_not_resolved(tmp_path: Path) -> None:
    write_results(tmp_path, CONFIG)
    lost = (np.eye(16) - 1 / 16).tolist()  # inner products of vectors whose mean is zero
    for skip in (10, 20):
        path = tmp_path / f"gradients/small/skip{skip}.json"
        record = json.loads(path.read_text()) | dict.fromkeys(("on_policy", "repeat", "on_policy_repeat"), lost)
        path.write_text(json.dumps(record))
    row = claim(tmp_path)["C3-base"]
    assert row["verdict"] == "inconclusive"
    assert row["measured"] == "0 of 2 pass, 2 not resolved; worst (small, skip 10 %): not resolved"
    assert math.isnan(float(str(row["low"])))


def test_the_summary_has_each_claim_with_its_mark_verdict_and_number(tmp_path: Path) -> None:
    report(tmp_path, effects=Effects(bias={"base": 0.5}))
    rows = read_table(tmp_path, "claims").set_index("id")
    lines = summary(rows.reset_index(), tmp_path).splitlines()
    for name, row in rows.iterrows():
        claim, _, correction = str(name).partition("-")
        (line,) = (line for line in lines if line.endswith(row["measured"]) and f" {correction} " in line)
        before = lines[: lines.index(line)]
        assert next(text for text in reversed(before) if text[0] != " ").startswith(f"{claim}  ")
        assert line.split()[0] == MARKS[row["verdict"]]
        assert row["verdict"] in line
    assert {line.split()[0] for line in lines[1:-2] if line[0] == " "} == {"✓", "✗"}
    assert lines[-2] == f"Figures: {tmp_path / 'figures'}"


def test_what_was_not_run_has_no_number_in_the_summary(tmp_path: Path) -> None:
    write_results(tmp_path, CONFIG)
    shutil.rmtree(tmp_path / "step_speed")
    claim(tmp_path)
    lines = summary(read_table(tmp_path, "claims"), tmp_path).splitlines()
    assert lines[lines.index(next(line for line in lines if line.startswith("C2"))) + 1].split() == ["·", "not", "run"]


def test_alarms_are_summed_in_one_line_by_their_cause(tmp_path: Path) -> None:
    write_results(tmp_path, CONFIG)
    assert alarms(tmp_path) == ""
    first, second, *rest = sorted((tmp_path / "runs").rglob("manifest.json"))
    low, far = {"quantity": "ess", "limit": "below 0.5"}, {"quantity": "kl_k3", "limit": "above 0.2"}
    for path, found in ((first, [(1, far), (2, far), (2, low)]), (second, [(2, far)])):
        record = json.loads(path.read_text(encoding="utf-8"))
        record["alarms"] = [{"step": step, "value": 0.3, **cause} for step, cause in found]
        path.write_text(json.dumps(record), encoding="utf-8")
    total = len(rest) + 2
    expected = f"Alarms: 3 steps of 2 runs (of {total}) were far off-policy: kl_k3 above 0.2 in 3, ess below 0.5 in 1"
    assert alarms(tmp_path) == expected
