"""A run against its reference: which verdicts and values differ, and what the command answers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from synthetic import MANIFEST, Effects, collect_results, make_config

from nested_reft.cli import main
from nested_reft.report.claims.tables import write_claims
from nested_reft.report.compare import compare
from nested_reft.report.tidy import read_table, write_table

CONFIG = make_config(sizes=2, benchmarks=1, skips=(10, 20), corrections=("base", "unit", "retrace"), steps=2)

# Far from parity, so that no verdict hangs on the noise.
CLEAR = Effects(noise=0.02, cost=1.5)


def claims(**verdicts: str) -> pd.DataFrame:
    return pd.DataFrame({"id": list(verdicts), "claim": "as always", "verdict": list(verdicts.values())})


def cells(*rows: tuple[str, int, float, float, float]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["id", "skip", "estimate", "low", "high"])
    numbers = {"skip": int, "estimate": float, "low": float, "high": float}
    return table.astype(numbers).assign(size="small", dataset="", benchmark="", n=3)


def run(root: Path, effects: Effects) -> Path:
    collect_results(root, CONFIG, effects)
    write_claims(root, CONFIG)
    return root


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("reference"), CLEAR)


def call(root: Path, reference: Path) -> int:
    return main(["compare", "--root", str(root), "--reference", str(reference)])


def test_intervals_that_touch_do_not_differ() -> None:
    old, known = cells(("C1", 10, 1.1, 1.0, 1.2)), claims(C1="supported")
    for low, high, differs in ((1.2, 1.3, False), (1.21, 1.3, True), (0.8, 1.0, False), (0.8, 0.99, True)):
        found = compare(known, known, old, cells(("C1", 10, (low + high) / 2, low, high)))
        assert (found.differs, found.compared) == (differs, 1), (low, high)


def test_what_differs_is_said_in_full() -> None:
    old = cells(("C1", 10, 1.1, 1.05, 1.15), ("C1", 20, 1.2, 1.1, 1.3))
    new = cells(("C1", 10, 1.4, 1.35, 1.45), ("C1", 20, 1.25, 1.1, 1.3))
    found = compare(claims(C1="supported", C2="refuted"), claims(C1="supported", C2="partly"), old, new)
    assert found.verdicts == ("C2: refuted, here partly (its values agree within their intervals)",)
    assert found.values == ("C1 (small, skip 10 %): 1.1 [1.05, 1.15], here 1.4 [1.35, 1.45]",)
    assert found.missing == ()
    assert "another machine may well differ" in found.text()
    assert found.line() == "differs in 1 verdicts, 1 values"


def test_what_was_not_run_here_differs_and_what_is_new_does_not() -> None:
    one = cells(("C5", 10, 0.0, -0.1, 0.1))
    two = pd.concat([one, cells(("C5", 20, 0.5, 0.4, 0.6))])
    known = claims(C5="partly")
    assert not compare(known, known, one, two).differs
    assert compare(known, known, one, two).line() == "agrees in all verdicts and 1 values"
    assert compare(known, known, two, one).missing == ("C5 (small, skip 20 %): not run",)
    assert compare(known, claims(), one, cells()).missing == ("C5: no such claim",)


def test_a_claim_that_says_something_else_is_not_compared() -> None:
    old, new = cells(("C3", 10, 0.5, 0.4, 0.6), ("C3", 20, 0.5, 0.4, 0.6)), cells(("C3", 10, 2.0, 1.9, 2.1))
    known, here = claims(C3="partly"), claims(C3="refuted")
    assert len(compare(known, here, old, new).text().splitlines()) == 7
    found = compare(known, here.assign(claim="by another estimator"), old, new)
    assert not found.differs
    assert found.text().splitlines()[:2] == ["Judged in another way here, so not compared:", "  C3"]


def test_a_value_without_interval_is_counted_and_not_judged() -> None:
    nan = float("nan")
    known = claims(C3="not run")
    found = compare(known, known, cells(("C3", 10, 0.1, nan, nan)), cells(("C3", 10, 9.9, 9.8, 10.0)))
    assert (found.differs, found.compared, found.without) == (False, 0, 1)


def test_a_value_without_estimate_was_measured_all_the_same() -> None:
    nan = float("nan")
    known, old = claims(C3="inconclusive"), cells(("C3", 10, 0.1, 0.05, 0.2))
    assert not compare(known, known, old, cells(("C3", 10, nan, 0.0, 0.3))).differs
    found = compare(known, known, old, cells(("C3", 10, nan, 0.0, 0.04)))
    assert found.values == ("C3 (small, skip 10 %): 0.1 [0.05, 0.2], here not resolved [0, 0.04]",)
    assert not compare(known, known, old, cells(("C3", 10, nan, nan, nan))).missing


def test_the_command_agrees_with_the_same_run_and_another_seed_of_the_noise(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(reference, reference) == 0
    again = run(tmp_path, replace(CLEAR, noise=0.021))
    assert read_table(again, "cells")["estimate"].tolist() != read_table(reference, "cells")["estimate"].tolist()
    assert call(again, reference) == 0
    assert "agrees with" in capsys.readouterr().out


def test_the_command_finds_another_speed_bias_and_accuracy(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = run(tmp_path, replace(CLEAR, rollout_gain=0.1, bias={"base": 0.8}, learned=0.0))
    assert call(changed, reference) == 3
    out = capsys.readouterr().out
    assert "C3-base: supported, here refuted" in out
    assert "C6: supported, here refuted" in out
    assert "C1 (large, skip 20 %): 1.1" in out
    assert "C3-is_sequence" not in out
    assert out.rstrip().endswith(f"{changed} differs from {reference}")


def test_another_processor_is_named_if_anything_differs(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = run(tmp_path / "changed", replace(CLEAR, learned=0.0))
    kept = tmp_path / "kept"
    shutil.copytree(reference / "tables", kept / "tables")
    for processor, named in ((MANIFEST["processor"], False), ("Another processor", True)):
        (kept / "manifest.json").write_text(json.dumps(MANIFEST | {"processor": processor, "settings_hash": "0"}))
        assert call(changed, kept) == 3
        assert ("computed on Another processor, this run on A processor" in capsys.readouterr().out) == named
        assert call(reference, kept) == 0
        assert "Another processor" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["claims", "cells"])
def test_a_missing_or_damaged_table_is_named(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    shutil.copytree(reference / "tables", tmp_path / "tables")
    write_table(tmp_path, name, read_table(reference, name).drop(columns="id"))
    assert call(reference, tmp_path) == 1
    assert f"tables/{name}.csv: has no column 'id'" in capsys.readouterr().out
    (tmp_path / f"tables/{name}.csv").unlink()
    assert call(reference, tmp_path) == 1
    assert f"tables/{name}.csv: does not exist; run the experiment" in capsys.readouterr().out


def test_every_cell_of_every_claim_is_in_the_table(reference: Path) -> None:
    table = read_table(reference, "cells")
    counts = table.groupby(table["id"].str.partition("-")[0]).size()
    # 2 sizes, 2 skips; 2 corrections of the gradients, 3 headline ones
    assert counts.to_dict() == {"C1": 4, "C2": 4, "C3": 8, "C4": 8, "C5": 12, "C6": 2}
    gain = table[(table["id"] == "C6") & (table["size"] == "small")].iloc[0]
    assert pd.isna(gain["skip"])
    assert gain["dataset"] == "stories"
    assert gain["estimate"] == pytest.approx(0.25, abs=0.05)
    assert gain["low"] < gain["estimate"] < gain["high"]
    worst = table[table["id"] == "C1"].sort_values("estimate").iloc[0]
    claim = read_table(reference, "claims").set_index("id").loc["C1"]
    assert (claim["low"], claim["high"]) == (worst["low"], worst["high"])
