"""Mutated configurations and data files: each is either valid or ends in one clear line, never in a traceback."""

from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from nested_reft.config.experiment import Config, load_config, parse_config
from nested_reft.config.run_table import all_runs
from nested_reft.config.sources import HubProblems
from nested_reft.config.strict import ConfigError
from nested_reft.data.hub import load_problems
from nested_reft.data.lock import add_to_lock, is_locked, read_lock
from nested_reft.data.records import DataError, Problem, read_problems, write_problems

CONFIGS = sorted((Path(__file__).parents[2] / "config").glob("*.yaml"))
MUTATIONS = 1500  # of each configuration
FILES = 1000

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 100, 10**30, 0.5, -0.5, math.nan, math.inf, 1e-300, "", " ", "1",
    "x" * 10_000, "α", "../../etc", "a b", "null", [], [0], [1, 1], [[1]], ["x"], {}, {"x": 1}, {"source": "generated"},
    {1: 2}, {None: None},
]  # fmt: skip


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every key and list entry."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, child in inner for place in ((*path, key), *places(child, (*path, key)))]


def mutate(rng: random.Random, settings: Any) -> Any:
    """One to three keys removed, renamed, doubled under another name, set to something odd, or swapped."""
    settings = copy.deepcopy(settings)
    for _ in range(rng.randint(1, 3)):
        paths = places(settings)
        if not paths:
            break
        *parents, key = rng.choice(paths)
        holder = settings
        for parent in parents:
            holder = holder[parent]
        match rng.randrange(5):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[f"{key}{rng.choice('sx_')}"] = holder.pop(key)
            case 2 if isinstance(holder, dict):
                holder[rng.choice([f"{key}2", str(key).upper(), 5, ""])] = copy.deepcopy(holder[key])
            case 3:
                holder[key] = [holder[key]] if rng.random() < 0.5 else {"value": holder[key]}
            case _:
                holder[key] = copy.deepcopy(rng.choice(VALUES))
    return settings


def assert_one_line(error: Exception, *parts: str) -> None:
    text = str(error)
    assert text.strip()
    assert "\n" not in text, text
    assert len(text) < 4000, text[:4000]
    for part in parts:
        assert part in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_mutated_configuration_is_valid_or_named(path: Path) -> None:
    rng, refused = random.Random(path.stem), 0
    original = yaml.safe_load(path.read_text(encoding="utf-8"))
    for _ in range(MUTATIONS):
        try:
            config = parse_config(mutate(rng, original), "my.yaml")
        except ConfigError as error:
            refused += 1
            assert_one_line(error, "my.yaml: ")
        else:
            assert isinstance(config, Config)
            assert len({run.path for run in all_runs(config)}) == len(all_runs(config))
            again = parse_config(json.loads(config.canonical_json()))
            assert again.canonical_json() == config.canonical_json()
    assert MUTATIONS / 2 < refused < MUTATIONS, "both kinds occur"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_damaged_configuration_file_is_valid_or_named(path: Path, tmp_path: Path) -> None:
    rng, content, refused = random.Random(path.stem), path.read_bytes(), 0
    damaged = tmp_path / "damaged.yaml"
    for _ in range(150):
        damaged.write_bytes(damage(rng, content))
        try:
            load_config(damaged)
        except ConfigError as error:
            refused += 1
            assert_one_line(error, str(damaged))
    assert refused > 50


def damage(rng: random.Random, content: bytes) -> bytes:
    """Cut, spliced, with foreign bytes or in another encoding."""
    place = rng.randrange(len(content))
    match rng.randrange(6):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + bytes(rng.randrange(256) for _ in range(rng.randint(1, 8))) + content[place:]
        case 2:
            return content[:place] + content[place + rng.randint(1, 40) :]
        case 3:
            return content[:place] + content[place // 2 : place] + content[place:]
        case 4:
            return content.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-32", "utf-8-sig", "cp500"]))
        case _:
            return content.replace(rng.choice([b":", b'"', b"{", b"\n", b","]), rng.choice([b"", b"\0", b"\t"]), 3)


# --- data


def source(**keys: Any) -> HubProblems:
    settings = {"source": "hub", "repo": "o/d", "split": "test", "question": ["body", "question"], "answer": "answer"}
    return HubProblems.model_validate(settings | keys)


ROWS: list[dict[str, Any]] = [
    {"body": "A farm.", "question": "How many hens?", "answer": "#### 12", "id": 1},
    {"body": "A shop.", "question": "What does it cost?", "answer": "#### 3.50", "id": 1},  # an id twice: not ours
    {"body": "", "question": "2 + 2?", "answer": "#### 4", "id": None},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CELLS: list[Any] = [
    None, "", "  ", 5, 5.0, math.nan, math.inf, True, [], ["1", "2"], [[1]], {"a": 1}, "\ud800", "\x00", "a\u2028b",
    "x" * 10**5, 10**4000, -0.0, "#### ", "no pattern",
]  # fmt: skip


def mutated_rows(rng: random.Random) -> str:
    """A JSON-lines file with odd cells, missing, renamed and extra columns, and rows that are none."""
    lines = []
    for row in copy.deepcopy(ROWS) * rng.randint(1, 3):
        for _ in range(rng.randint(0, 2)):
            column = rng.choice(list(row) or ["x"])
            match rng.randrange(4):
                case 0:
                    row.pop(column, None)
                case 1:
                    row[f"{column}_"] = row.pop(column, None)
                case 2:
                    row["extra"] = rng.choice(CELLS)
                case _:
                    row[column] = rng.choice(CELLS)
        lines.append(
            rng.choice(["[]", "5", "null", '{"body": ', "{}", "\ufeff{}"]) if rng.random() < 0.05 else dumps(row)
        )
    return rng.choice(["\n", "\n", "\n", "\r\n", "\n\n"]).join(lines)


def dumps(row: dict[str, Any]) -> str:
    import sys

    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(row)
    finally:
        sys.set_int_max_str_digits(limit)


def load_or_name(folder: Path, settings: HubProblems) -> bool:
    """Whether the data loads; if so it survives the way to the trainer, and if not the error is one line."""
    try:
        problems, provenance = load_problems(settings, folder)
    except DataError as error:
        assert_one_line(error, "o/d")
        return False
    assert problems
    assert all(problem.question and problem.answer for problem in problems)
    assert len({problem.id for problem in problems}) == len(problems)
    assert provenance["rows_kept"] + provenance["rows_dropped_empty"] == provenance["rows_read"]
    write_problems(folder / "problems.jsonl", problems)
    assert read_problems(folder / "problems.jsonl") == problems
    return True


@pytest.mark.parametrize("kind", ["rows", "rows with a pattern", "bytes"])
def test_mutated_rows_and_damaged_json_lines_load_or_are_named(tmp_path: Path, kind: str) -> None:
    rng, loaded = random.Random(kind), 0
    path = tmp_path / "o/d/test.jsonl"
    path.parent.mkdir(parents=True)
    pattern = r"####\s*(.+)" if kind == "rows with a pattern" else None
    for _ in range(FILES):
        path.write_bytes(damage(rng, LINES) if kind == "bytes" else mutated_rows(rng).encode())
        loaded += load_or_name(tmp_path, source(answer_pattern=pattern))
    assert 0 < loaded < FILES * 0.9, "both kinds occur"


def test_damaged_parquet_files_load_or_are_named(tmp_path: Path) -> None:
    rng = random.Random(2)
    path = tmp_path / "o/d/test.parquet"
    path.parent.mkdir(parents=True)
    datasets.Dataset.from_list(ROWS).to_parquet(str(path))
    assert load_or_name(tmp_path, source())
    content = path.read_bytes()
    for number in range(40):
        path.write_bytes([content[: rng.randrange(len(content))], b"", b"PAR1", content[::-1]][number % 4])
        assert not load_or_name(tmp_path, source())


def test_any_change_of_a_locked_file_is_named(tmp_path: Path) -> None:
    """Even if the changed file would load."""
    rng = random.Random(3)
    path, lock = tmp_path / "o/d/test.jsonl", tmp_path / "hub.lock"
    path.parent.mkdir(parents=True)
    content = LINES
    path.write_bytes(content)
    add_to_lock(lock, [load_problems(source(), tmp_path)[1]])
    locked, loaded = read_lock(lock), 0
    assert is_locked(locked, load_problems(source(), tmp_path)[1], lock)
    for _ in range(FILES):
        place = rng.randrange(len(content))
        flipped = bytes([content[place] ^ 1 << rng.randrange(7)])
        path.write_bytes(
            content[:place] + rng.choice([b"", flipped, content[place : place + 1] * 2]) + content[place + 1 :]
        )
        try:
            record = load_problems(source(), tmp_path)[1]
        except DataError:
            continue
        loaded += 1
        with pytest.raises(DataError) as caught:
            is_locked(locked, record, lock)
        assert_one_line(
            caught.value, "o/d", "test.jsonl has changed: locked is SHA-256", f"remove its entry from {lock}"
        )
    assert 0 < loaded < FILES, "both kinds occur"


NOT_TEXT = "line 1: not a problem (id, question, answer and solution must be text)"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "holds no problem"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b'{"id": "1", "question": "q"}\n', "line 1: not a problem"),
        (b'{"id": "1", "question": "q", "answer": ""}\n', NOT_TEXT),
        (b'{"id": 1, "question": "q", "answer": "a"}\n', NOT_TEXT),
        (b'{"id": "1", "question": "q", "answer": "a", "more": 1}\n', "line 1: not a problem"),
        (b'{"id": "1", "question": "q", "answer": "a"}\n[]\n', "line 2: not a problem"),
        (b'{"id": "1", "question": "q", "answer": "a"}\n\n', "line 2: not a problem"),
        (b"[" * 10**5, "line 1: not a problem"),
    ],
)
def test_a_damaged_file_of_problems_is_named(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_problems(path)
    assert_one_line(caught.value, str(path), part, "delete the file to make it again")


def test_a_question_may_hold_any_character(tmp_path: Path) -> None:
    problems = [Problem("1", "a\u2028b\x85c\x1cd\r\ne\nf", "\x0b5"), Problem("2", "é 🧨 \x00", "٣")]
    write_problems(tmp_path / "problems.jsonl", problems)
    assert read_problems(tmp_path / "problems.jsonl") == problems
