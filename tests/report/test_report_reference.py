"""The kept reference run is judged by the present rules, with the present intervals."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import rejudge

from nested_reft.config.experiment import load_config
from nested_reft.evaluation.exact import BATCH


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reference") / "run"
    shutil.copytree(rejudge.REFERENCE / "tables", root / "tables")
    rejudge.rejudge(root, load_config(rejudge.CONFIG))
    return root / "tables"


@pytest.mark.parametrize(
    "name",
    ["claims.csv", "claims.md", "claims.tex", "verdicts.csv", "cells.csv", "equivalence.md", "layer_choice.md",
     "gain_by_benchmark.md", "accuracy_sampled.md", "accuracy_greedy.md", "exact_bias.md", "exact_bias.tex"],
)  # fmt: skip
def test_its_tables_are_those_that_would_be_written_now(judged: Path, name: str) -> None:
    kept = (rejudge.REFERENCE / "tables" / name).read_text(encoding="utf-8")
    assert (judged / name).read_text(encoding="utf-8") == kept, "run tools/rejudge.py"


def test_the_exact_table_says_how_many_problems_share_a_draw() -> None:
    text = (rejudge.REFERENCE / "tables/exact_bias.md").read_text(encoding="utf-8")
    assert f"drawn for each batch of {BATCH} problems" in text
