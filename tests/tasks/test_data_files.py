"""A mirror that holds whole repositories, as `hf download` makes it, and the formats that are read."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import datasets
import pytest

from nested_reft.config.sources import HubProblems
from nested_reft.tasks import hub
from nested_reft.tasks.data_files import read_rows
from nested_reft.tasks.records import DataError

COMMIT, OTHER = "a" * 40, "b" * 40
CARD = "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: data/part-*\n---\n"


def source(**keys: Any) -> HubProblems:
    settings = {"source": "hub", "repo": "o/d", "split": "test", "question": "question", "answer": "answer"}
    return HubProblems.model_validate(settings | keys)


def put_repository(mirror: Path) -> Path:
    """A folder with README.md, two parquet files, and the notes that `hf download --local-dir` leaves."""
    folder = mirror / "o/d"
    notes = folder / ".cache/huggingface/download/data"
    notes.mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "README.md").write_text(CARD)
    for part in (0, 1):
        rows = datasets.Dataset.from_dict({"question": [f"q{part}"], "answer": [str(part)]})
        rows.to_parquet(str(folder / f"data/part-{part}.parquet"))
        (notes / f"part-{part}.parquet.metadata").write_text(f"{COMMIT}\netag\n{time.time()}\n")
    return folder


# --- a repository in the mirror


def test_a_whole_repository_is_read_as_its_card_says(tmp_path: Path) -> None:
    put_repository(tmp_path)
    problems, provenance = hub.load_problems(source(name="main"), tmp_path)
    assert [problem.answer for problem in problems] == ["0", "1"]
    assert list(provenance["files"]) == ["data/part-0.parquet", "data/part-1.parquet"]
    assert (provenance["origin"], provenance["resolved_revision"]) == ("mirror", COMMIT)
    with pytest.raises(DataError, match=r"'other' not found.*\['main'\].*put it there, or unset NESTED_REFT"):
        hub.load_problems(source(name="other"), tmp_path)


def test_a_linked_repository_has_the_same_record(tmp_path: Path) -> None:
    folder = put_repository(tmp_path / "real")
    (tmp_path / "mirror/o").mkdir(parents=True)
    (tmp_path / "mirror/o/d").symlink_to(folder, target_is_directory=True)
    settings = source(name="main")
    assert hub.load_problems(settings, tmp_path / "mirror") == hub.load_problems(settings, tmp_path / "real")


def test_a_mirror_of_another_commit_than_the_pinned_one_is_named(tmp_path: Path) -> None:
    folder = put_repository(tmp_path)
    assert hub.load_problems(source(name="main", revision=COMMIT), tmp_path)[1]["resolved_revision"] == COMMIT
    with pytest.raises(
        DataError, match=f"{folder}: holds commit {COMMIT}.*asks for revision {OTHER}.*hf download --revision {OTHER}"
    ):
        hub.load_problems(source(name="main", revision=OTHER), tmp_path)


@pytest.mark.parametrize("spoil", ["changed", "mixed", "no note", "no hash", "no time"])
def test_no_commit_is_claimed_where_the_notes_do_not_hold(tmp_path: Path, spoil: str) -> None:
    folder = put_repository(tmp_path)
    note = folder / ".cache/huggingface/download/data/part-1.parquet.metadata"
    match spoil:
        case "changed":
            os.utime(folder / "data/part-1.parquet", (time.time() + 60, time.time() + 60))
        case "mixed":
            note.write_text(note.read_text().replace(COMMIT, OTHER))
        case "no note":
            note.unlink()
        case "no hash":
            note.write_text(note.read_text().replace(COMMIT, "main"))
        case "no time":
            note.write_text(f"{COMMIT}\n")
    assert hub.load_problems(source(name="main", revision=OTHER), tmp_path)[1]["resolved_revision"] is None


# --- formats


def test_every_format_gives_the_cells_as_they_were_written(tmp_path: Path) -> None:
    rows = [{"q": "a, b", "a": "025"}, {"q": "two\nlines", "a": "2020-01-01"}]
    contents = {
        "a.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "b.json": json.dumps(rows, indent=1),
        "c.json": "".join(json.dumps(row) + "\n" for row in rows),
        "d.csv": 'q,a\r\n"a, b",025\r\n"two\nlines",2020-01-01\r\n',
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content.encode())
        assert list(read_rows([tmp_path / name])) == rows, name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[{", "is not JSON"),
        ("a.json", "[1]", "is not a list of objects with columns"),
        ("a.json", "[]", "is empty"),
        ("a.json", "[" * 100_000, "is not JSON"),
        ("a.csv", "", "is empty"),
        ("a.csv", "q,a\n1,2\n1\n", "row 1: does not have as many cells"),
        ("a.csv", "q,a\n1,2,3\n", "row 0: does not have as many cells"),
        ("a.csv", 'q,a\n"1,2\n', "is not CSV"),
        ("a.txt", "q", "has an unsupported format"),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        list(read_rows([tmp_path / name]))
