"""The example trains, and without its two marked lines it is a script of TRL alone."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from page_trainer import tiny_code
from tiny_trl import integration

EXAMPLE = Path(__file__).parents[2] / "examples/trl_grpo.py"
# The marked line, and what stands there without nested rollouts.
MARK = re.compile(r"^(?P<indent> *)# [12] of 2\. Without nested rollouts: (?P<plain>.*)\n.*$", re.MULTILINE)


def run(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script with a tiny random model of ten layers."""
    tiny_code(folder / "model")
    options = ["--model", str(folder / "model"), "--steps", "2", "--completion-length", "4", "--cpu"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *options, "--output", str(folder / "out")])
    exec(compile(code, str(EXAMPLE), "exec"), {"__name__": "__main__"})


def test_the_example_trains_and_logs_the_distance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    run(EXAMPLE.read_text(encoding="utf-8"), tmp_path, monkeypatch)
    output = capsys.readouterr().out
    assert output.count("'nested/skipped_layers': '1'") == 2
    assert output.count("'nested/ess'") == 2


def test_only_the_marked_lines_are_nested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = EXAMPLE.read_text(encoding="utf-8")
    assert len(MARK.findall(code)) == 2
    plain = MARK.sub(r"\g<indent>\g<plain>", code)
    statements = plain.partition("from __future__")[2].replace("from nested_reft import grade", "")
    assert "nested" not in statements.lower()
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(integration, "NestedGRPOTrainer", None)
    run(plain, tmp_path, monkeypatch)
    assert "nested/" not in capsys.readouterr().out
