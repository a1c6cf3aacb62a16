"""Result files as their schemas say: what is written is what is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from nested_reft.config.records.influence import InfluenceRecord
from nested_reft.config.records.record import RecordError, read_record, read_records, write_record
from nested_reft.config.records.training import StepRecord, write_steps


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = InfluenceRecord(size="tiny", stage="pretrained", problems=1, tokens=9, influence=[0.1, 2.0])
    write_record(tmp_path / "new/influence.json", record)
    text = (tmp_path / "new/influence.json").read_text(encoding="utf-8")
    assert list(json.loads(text)) == list(InfluenceRecord.model_fields)
    assert read_record(tmp_path / "new/influence.json", InfluenceRecord) == record
    (tmp_path / "old.json").write_text(text.replace("0.1", "NaN"), encoding="utf-8")
    with pytest.raises(RecordError, match=r"old.json: influence.0: Input should be a finite number; delete this file"):
        read_record(tmp_path / "old.json", InfluenceRecord)


def test_a_key_that_no_schema_has_is_refused_by_who_writes_and_ignored_by_who_reads(tmp_path: Path) -> None:
    known = {"size": "tiny", "stage": "pretrained", "problems": 1, "tokens": 9, "influence": [0.1, 2.0]}
    with pytest.raises(ValidationError, match=r"answers\n  Extra inputs are not permitted"):
        InfluenceRecord(**known, answers=1)
    (tmp_path / "later.json").write_text(json.dumps(known | {"answers": 1}), encoding="utf-8")
    assert read_record(tmp_path / "later.json", InfluenceRecord) == InfluenceRecord(**known)


def test_the_steps_of_a_run_are_checked_and_written_in_their_own_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    row = dict.fromkeys(reversed(StepRecord.model_fields), 0.1) | {"step": 1, "skipped_layers": [3]}
    write_steps(path, [row, row])
    assert path.read_text(encoding="utf-8") == 2 * (json.dumps(row) + "\n")
    assert read_records(path, StepRecord) == [StepRecord(**row)] * 2
    for wrong in ({"step": 1}, row | {"rewrad": 0.5}):
        with pytest.raises(ValidationError, match=r"reward|rewrad"):
            write_steps(path, [wrong])
