"""Result files as their schemas say: what is written is what is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from nested_reft.config.records import (
    InfluenceRecord,
    RecordError,
    StepRecord,
    read_record,
    read_records,
    write_record,
    write_steps,
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = InfluenceRecord(size="tiny", stage="pretrained", problems=1, tokens=9, influence=[0.1, 2.0])
    write_record(tmp_path / "new/influence.json", record)
    text = (tmp_path / "new/influence.json").read_text(encoding="utf-8")
    assert list(json.loads(text)) == list(InfluenceRecord.model_fields)
    assert read_record(tmp_path / "new/influence.json", InfluenceRecord) == record
    (tmp_path / "old.json").write_text(text.replace("0.1", "NaN"), encoding="utf-8")
    with pytest.raises(RecordError, match=r"old.json: influence.0: Input should be a finite number; delete this file"):
        read_record(tmp_path / "old.json", InfluenceRecord)


def test_a_step_is_checked_and_written_as_it_came(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    known = dict.fromkeys(reversed(StepRecord.model_fields), 0.1) | {"step": 1, "skipped_layers": [3]}
    row = {"kl_reference": 0.5, **known}
    write_steps(path, [row, row])
    assert path.read_text(encoding="utf-8") == 2 * (json.dumps(row) + "\n")
    assert read_records(path, StepRecord) == [StepRecord(**known)] * 2
    with pytest.raises(ValidationError, match="reward"):
        write_steps(path, [{"step": 1}])
