"""A mirror that holds whole repositories, as `hf download` makes it, and the formats that are read."""

from __future__ import annotations

import json
import os
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from nested_reft.config.sources import HubProblems
from nested_reft.data import hub
from nested_reft.data.files import read_rows
from nested_reft.data.records import DataError

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
        "e.json": json.dumps({"version": 1, "data": rows, "notes": []}, indent=1),
        "f.json": json.dumps({"data": rows}),
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
        ("a.json", '{"data": [\n{"q": "1"}', "is not JSON"),
        ("a.json", '{"q": "1"}\n{"q":', "line 2: is not JSON"),
        ("a.json", '{"train": [{"q": "1"}], "test": [{"q": "1"}]}', r"rows under several keys \(train, test\)"),
        ("a.json", '{"q": ["1", "2"], "a": ["3", "4"]}', "is not a list of objects with columns"),
        ("a.csv", "q,a,a\n1,2,3\n", "has two columns named 'a'; rename one"),
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


def test_a_parquet_file_with_two_columns_of_one_name(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table([pyarrow.array(["1"])] * 2, names=["a", "a"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: is not a readable parquet file \(Multiple matches for .*\(a\)"):
        list(read_rows([tmp_path / "a.parquet"]))


def test_a_cell_may_be_as_long_as_it_likes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,a\n" + "x" * 200_000 + ",1\n")
    (row,) = read_rows([tmp_path / "a.csv"])
    assert len(row["q"]) == 200_000


# --- encodings and numbers


@pytest.mark.parametrize("name", ["a.jsonl", "b.json", "c.json", "d.csv"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str) -> None:
    rows = [{"question": "π?", "answer": "3.14"}, {"question": "\ufeffb", "answer": "025"}]
    contents = {
        "a.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        "b.json": json.dumps(rows, ensure_ascii=False),
        "c.json": "".join(json.dumps(row) + "\n" for row in rows),
        "d.csv": "question,answer\nπ?,3.14\n\ufeffb,025\n",
    }
    (tmp_path / name).write_bytes(("\ufeff" + contents[name]).encode())
    assert list(read_rows([tmp_path / name])) == rows
    (tmp_path / name).write_bytes(contents[name].encode("utf-16"))
    with pytest.raises(DataError, match=rf"{name}: is not UTF-8 text .* at byte 0\).*save it as UTF-8"):
        list(read_rows([tmp_path / name]))


def test_the_names_of_columns_are_visible_in_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "o/d"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text(json.dumps({"question\u200b": "q", "answer": "1"}), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        hub.load_problems(source(), tmp_path)
    assert str(caught.value).isascii()
    assert r"columns: 'question\u200b', answer" in str(caught.value)


def test_numbers_of_parquet_are_as_short_as_their_type_allows(tmp_path: Path) -> None:
    """3.14 is stored as 3.140000104904175 in 32 bits."""
    columns = {
        "float32": ([3.14, -0.1, None], pyarrow.float32()),
        "large": ([1e10, 16777216.0, 1.5e-7], pyarrow.float32()),
        "float64": ([3.14, 3.140000104904175, 27.0], pyarrow.float64()),
        "list": ([[3.14], [], [0.1, None]], pyarrow.list_(pyarrow.float32())),
        "integer": ([1, 2, 3], pyarrow.int8()),
    }
    table = pyarrow.table({name: pyarrow.array(*column) for name, column in columns.items()})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    rows = list(read_rows([tmp_path / "a.parquet"]))
    assert {name: [row[name] for row in rows] for name in rows[0]} == {
        name: cells for name, (cells, _) in columns.items()
    }


@pytest.mark.parametrize(
    ("cell", "type_", "answer"),
    [
        (3.14, pyarrow.float32(), "3.14"),
        (27.0, pyarrow.float64(), "27"),
        ([0.1, 2.0], pyarrow.list_(pyarrow.float32()), "0.1, 2"),
        (Decimal("3.10"), None, "3.1"),
        (Decimal("1200.00"), None, "1200"),
    ],
)
def test_answers_that_are_numbers_of_parquet(tmp_path: Path, cell: Any, type_: Any, answer: str) -> None:
    (tmp_path / "o/d").mkdir(parents=True)
    table = pyarrow.table({"question": ["q"], "answer": pyarrow.array([cell], type_)})
    pyarrow.parquet.write_table(table, tmp_path / "o/d/test.parquet")
    assert hub.load_problems(source(), tmp_path)[0][0].answer == answer


def test_a_label_is_its_name_and_fields_keep_their_precision(tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features(
        {"answer": label, "several": datasets.List(label), "in": {"x": datasets.Value("float32"), "label": label}}
    )
    rows = [
        {"answer": 1, "several": [0, 1], "in": {"x": 3.14, "label": 0}},
        {"answer": -1, "several": [], "in": {"x": None, "label": None}},
    ]
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "a.parquet"))
    assert list(read_rows([tmp_path / "a.parquet"])) == [
        {"answer": "yes", "several": ["no", "yes"], "in": {"x": 3.14, "label": "no"}},
        {"answer": None, "several": [], "in": {"x": None, "label": None}},
    ]
