"""The kept reference runs are judged by the present rules, with the present intervals."""

from __future__ import annotations

from pathlib import Path

import pytest
import rejudge

from nested_reft.evaluation.exact import BATCH

KEPT = [(run, path.name) for run in rejudge.CONFIGS for path in sorted((rejudge.REFERENCE / run / "tables").iterdir())]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reference")
    for run in rejudge.CONFIGS:
        rejudge.rejudge(run, root / run)
    return root


def test_every_kept_run_has_its_configuration() -> None:
    assert sorted(path.name for path in rejudge.REFERENCE.iterdir()) == sorted(rejudge.CONFIGS)


@pytest.mark.parametrize(("run", "name"), KEPT)
def test_its_tables_are_those_that_would_be_written_now(judged: Path, run: str, name: str) -> None:
    kept = (rejudge.REFERENCE / run / "tables" / name).read_text(encoding="utf-8")
    assert (judged / run / "tables" / name).read_text(encoding="utf-8") == kept, "run tools/rejudge.py"


def test_the_exact_table_says_how_many_problems_share_a_draw() -> None:
    text = (rejudge.REFERENCE / "laptop/tables/exact_bias.md").read_text(encoding="utf-8")
    assert f"drawn for each batch of {BATCH} problems" in text
