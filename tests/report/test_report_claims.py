"""Claims from made-up results: the table, its texts, its summary, and what was not run."""

from __future__ import annotations

import json
import math
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
LONE = make_config(sizes=1, benchmarks=1, skips=(10,), corrections=("base",), steps=2)
NO_NOISE = Effects()


def report(root: Path, config: Config = CONFIG, effects: Effects = NO_NOISE) -> dict[str, dict[str, object]]:
    write_results(root, config, effects)
    return claim(root, config)


def claim(root: Path, config: Config = CONFIG, options: str = "") -> dict[str, dict[str, object]]:
    collect(root, config)
    write_claims(root, config, options=options)
    return {str(row["id"]): row for row in read_table(root, "claims").to_dict("records")}


def test_everything_supported(tmp_path: Path) -> None:
    claims = report(tmp_path)
    gradients = [f"{name}-{of}" for name in ("C3", "C4") for of in ("base", "is_sequence")]
    assert list(claims) == ["C1", "C2", *gradients, *(f"C5-{name}" for name in CONFIG.corrections), "C6"]
    assert {row["verdict"] for row in claims.values()} == {"supported"}
    assert {row["paper"] for name, row in claims.items() if name != "C6"} == {"not available to us"}
    assert claims["C6"]["paper"] == "no claim of the paper"
    # Skip 10 of 10 layers: speed-up 1 + 0.8 * 0.1, the same in every pair; step gain 0.2.
    assert claims["C1"]["low"] == pytest.approx(1.08)
    assert claims["C2"]["low"] == pytest.approx(1.02)
    assert "worst (small, skip 10 %): 1.08×" in str(claims["C1"]["measured"])
    # Learned 0.25, by one answer of 50 problems x 4 samples more or less in two of three seeds: Student's t.
    assert claims["C6"]["low"] == pytest.approx(0.25 - 4.302653 * 0.005 / 3**0.5, abs=1e-3)
    header = (tmp_path / "tables" / "claims.csv").read_text().splitlines()[0]
    assert header.split(",") == COLUMNS


def test_the_command_draws_the_claims_figure_with_the_same_configuration(tmp_path: Path) -> None:
    row = claim(tmp_path, options="--configfile config/smoke.yaml")["C1"]
    assert row["figure"] == "figures/throughput.png"
    command = "snakemake --cores all results/laptop/figures/throughput.png --configfile config/smoke.yaml"
    assert row["command"] == command


def test_everything_refuted(tmp_path: Path) -> None:
    effects = Effects(rollout_gain=-0.5, step_gain=-0.2, learned=0.05, cost=2.0)
    gradients = {"base": 3.0, "is_sequence": 3.0}
    claims = report(tmp_path, effects=Effects(**vars(effects) | {"bias": gradients, "variance": gradients}))
    on_par = {name for name in claims if name.startswith("C5")}
    assert {row["verdict"] for name, row in claims.items() if name not in on_par} == {"refuted"}
    # A baseline that has not learned is nothing to be on par with.
    assert {claims[name]["verdict"] for name in on_par} == {"not assessable"}
    # At skip 20 the loss is 0.4, all the baseline has above 0.05.
    measured = str(claims["C5-unit"]["measured"])
    assert measured.startswith(
        "0 of 2 pass, 2 not assessable; worst (small, stories, heldout, skip 20 %): -40.0 [-41.2"
    )


def test_one_seed_gives_estimates_and_no_verdict(tmp_path: Path) -> None:
    claims = report(tmp_path, make_config(sizes=1, benchmarks=1, skips=(10,), seeds=(1,), steps=2))
    assert claims["C1"]["verdict"] == claims["C2"]["verdict"] == "supported"  # pairs, not seeds
    for name in ("C5-base", "C6"):
        assert claims[name]["verdict"] == "not run"
        assert "one seed, so no interval" in str(claims[name]["measured"])
        assert math.isnan(float(str(claims[name]["low"])))


def test_parity_far_beyond_the_margin_is_refuted(tmp_path: Path) -> None:
    claims = report(tmp_path, effects=Effects(cost=2.0))
    measured = str(claims["C5-unit"]["measured"])
    assert claims["C5-unit"]["verdict"] == "refuted"
    assert measured.startswith("0 of 2 pass, 2 fail; worst (small, stories, heldout, skip 20 %): -40.0 [-41.2, -38.8]")
    assert measured.endswith("; 2 beyond the margin; 2 below 0, 0 above 0; ±5 points are 20 % of the baseline's gain")


def test_what_is_not_in_the_config_is_not_run_nor_a_benchmark_that_is_missed(tmp_path: Path) -> None:
    assert report(tmp_path, LONE)["C5-base"]["verdict"] == "supported"
    assert claim(tmp_path, LONE)["C5-retrace"]["verdict"] == "not run"
    config = make_config(sizes=1, benchmarks=2, skips=(10,), corrections=("base",), steps=2)
    write_results(tmp_path, config)
    for seed in config.seeds:
        (tmp_path / f"evaluations/small/stories/base/skip10/seed{seed}/steps.json").unlink()
    row = claim(tmp_path, config)["C5-base"]
    assert row["verdict"] == "inconclusive"
    assert row["counts"] == "1 of 2 pass"
    assert "; 1 not run; " in str(row["measured"])


def test_only_seeds_of_both_are_paired(tmp_path: Path) -> None:
    write_results(tmp_path, LONE, Effects(noise=0.02))
    (tmp_path / "evaluations/small/stories/base/skip0/seed2/heldout.json").unlink()
    claim(tmp_path, LONE)
    runs = read_table(tmp_path, "runs").query("metric == 'sampled' and correction == 'base'")
    values = runs.set_index(["skip", "seed"])["value"]
    found = parity(runs, LONE, "sampled")["small", "stories", "heldout", "base", 10]
    assert found is not None
    assert found.units == pytest.approx([values[10, seed] - values[0, seed] for seed in (1, 3)])
    assert found.estimate == pytest.approx(np.mean(found.units))


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
