"""The lock file: what was fetched is recorded, verified, pinned, and never silently replaced."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_hub import FakeHub

from nested_reft.config.experiment import load_config
from nested_reft.config.sources import HubModel, HubProblems
from nested_reft.config.strict import ConfigError
from nested_reft.data import hub
from nested_reft.data.hub_models import fetch_model
from nested_reft.data.lock import HubLock, add_to_lock, find_lock, is_locked, locked_commit, read_lock
from nested_reft.data.records import DataError

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "config/hub.lock"
A, B = "a" * 40, "b" * 40
FILES = f"{{a.gguf: {{bytes: 1, sha256: {'a' * 64}}}}}"


def record(**keys: Any) -> dict[str, Any]:
    """What a job writes of a data set fetched from a mirror that says nothing of a commit."""
    files = {"test.jsonl": {"bytes": 3, "sha256": "1" * 64}}
    known = {"kind": "dataset", "repo": "o/d", "config_name": None, "split": "test", "requested_revision": "main"}
    return known | {"resolved_revision": None, "origin": "mirror", "rows": 2, "files": files} | keys


def of_hub(commit: str = A, **keys: Any) -> dict[str, Any]:
    return record(origin="hub", resolved_revision=commit, **keys)


def files(digit: str = "1", *names: str) -> dict[str, Any]:
    return {name: {"bytes": 3, "sha256": digit * 64} for name in names or ("test.jsonl",)}


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "config/hub.lock"


# --- recording


def test_the_file_is_sorted_stable_and_readable(lock: Path) -> None:
    model = record(
        kind="model", repo="a/m", split=None, rows=None, files=files("2", "model.safetensors", "config.json")
    )
    records = [record(repo="o/e", config_name="main"), model, record(), record()]  # a split may have two names
    assert len(add_to_lock(lock, records)) == 3
    text = lock.read_text(encoding="utf-8")
    entries = yaml.safe_load(text)["entries"]
    assert [entry["repo"] for entry in entries] == ["o/d", "o/e", "a/m"]
    assert entries[0] == {
        "kind": "dataset", "repo": "o/d", "split": "test", "revision": "main", "commit": None, "rows": 2,
        "files": {"test.jsonl": {"bytes": 3, "sha256": "1" * 64}},
    }  # fmt: skip
    assert list(entries[2]["files"]) == ["config.json", "model.safetensors"]
    assert add_to_lock(lock, reversed(records)) == []
    assert lock.read_text(encoding="utf-8") == text
    lock.unlink()
    add_to_lock(lock, reversed(records))
    assert lock.read_text(encoding="utf-8") == text


def test_a_change_is_never_recorded_over_an_entry(lock: Path) -> None:
    add_to_lock(lock, [record()])
    text = lock.read_text(encoding="utf-8")
    with pytest.raises(DataError, match=r"test\.jsonl has changed"):
        add_to_lock(lock, [record(repo="o/new"), record(files=files("2"))])
    assert lock.read_text(encoding="utf-8") == text


def test_a_commit_that_becomes_known_takes_the_place_of_unknown(lock: Path) -> None:
    add_to_lock(lock, [record()])
    add_to_lock(lock, [of_hub()])
    assert [entry.commit for entry in read_lock(lock).entries] == [A]
    assert is_locked(read_lock(lock), record(), lock), "the mirror's same file is still verified"


# --- verifying


def test_without_an_entry_nothing_is_verified(lock: Path) -> None:
    assert not is_locked(HubLock(), record(), lock)
    add_to_lock(lock, [record()])
    for other in ({"split": "train"}, {"config_name": "main"}, {"requested_revision": A}, {"repo": "o/e"}):
        assert not is_locked(read_lock(lock), record(**other), lock)
    # Files of a mirror may have been made otherwise: they do not bind the hub, whose commit identifies its own.
    assert not is_locked(read_lock(lock), of_hub(files=files("2")), lock)


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        (record(), record(files=files("2")), f"test.jsonl has changed: locked is SHA-256 {'1' * 64} of 3 bytes, found"),
        (record(), record(rows=3), "2 rows are locked, 3 found"),
        (of_hub(), of_hub(B, files=files("2")), "test.jsonl has changed"),
        (of_hub(), of_hub(files=files("1", "test.jsonl", "more.jsonl")), "more.jsonl is there, but not locked"),
        (of_hub(), of_hub(files=files("1", "other.jsonl")), "other.jsonl is there, but not locked"),
        (of_hub(files=files("1", "a", "b")), of_hub(files=files("1", "b")), "a is locked, but missing"),
        (of_hub(), record(files=files("2")), "test.jsonl has changed"),
    ],
)  # fmt: skip
def test_a_difference_is_one_line_that_says_how_to_accept_it(
    lock: Path, before: dict[str, Any], after: dict[str, Any], difference: str
) -> None:
    add_to_lock(lock, [before])
    assert is_locked(read_lock(lock), before, lock)
    with pytest.raises(DataError) as caught:
        is_locked(read_lock(lock), after, lock)
    text = str(caught.value)
    assert "\n" not in text
    for part in ("dataset o/d, split test, revision main: ", difference, f"remove its entry from {lock}", "lock_hub"):
        assert part in text


def test_a_mirror_with_files_of_other_names_is_not_bound_and_may_be_locked_too(lock: Path) -> None:
    add_to_lock(lock, [of_hub(files=files("1", "data/test-00000-of-00001.parquet"))])
    assert not is_locked(read_lock(lock), record(), lock)
    assert len(add_to_lock(lock, [record()])) == 1
    with pytest.raises(DataError, match="has changed"):
        is_locked(read_lock(lock), record(files=files("2")), lock)


# --- GGUF files


@pytest.mark.parametrize(("key", "thing"), [("package", "smol==1.2"), ("path", "models/a.gguf")])
def test_a_gguf_file_is_locked_by_its_package_or_path(lock: Path, key: str, thing: str) -> None:
    origin = {"package": "package", "path": "gguf"}[key]

    def made(digit: str = "1", name: str = "a.gguf", thing: str = thing) -> dict[str, Any]:
        return {"kind": "model", "origin": origin, key: thing, "files": files(digit, name)}

    assert not is_locked(HubLock(), made(), lock)
    assert add_to_lock(lock, [made()]) == [f"model {thing}"]
    assert yaml.safe_load(lock.read_text(encoding="utf-8"))["entries"] == [
        {"kind": "model", key: thing, "files": files("1", "a.gguf")}
    ]
    assert is_locked(read_lock(lock), made(), lock)
    assert not is_locked(read_lock(lock), made(thing="another"), lock)
    with pytest.raises(DataError, match=rf"^model {thing}: a\.gguf has changed: .*remove its entry from {lock}"):
        is_locked(read_lock(lock), made("2"), lock)
    with pytest.raises(DataError, match=r"a\.gguf is locked, but missing"):
        is_locked(read_lock(lock), made(name="b.gguf"), lock)


# --- pinning


def test_the_locked_commit_is_fetched_when_the_branch_has_moved(lock: Path, fake_hub: FakeHub, tmp_path: Path) -> None:
    problems = HubProblems(source="hub", repo="o/d", split="test", question=("q",), answer=("a",))
    model = HubModel(source="hub", repo="o/m", layers=2)
    row, weights = '{"q": "1 + 1 =", "a": "%d"}\n', {"config.json": b'{"num_hidden_layers": 2}'}
    fake_hub.commit("datasets", "o/d", {"test.jsonl": (row % 2).encode()})
    fake_hub.commit("models", "o/m", weights | {"model.safetensors": b"old"})
    first = hub.load_problems(problems, None), fetch_model(model, None, tmp_path / "first")
    assert locked_commit(HubLock(), problems) is None
    add_to_lock(lock, [first[0][1], first[1]])
    fake_hub.commit("datasets", "o/d", {"test.jsonl": (row % 3).encode()})
    fake_hub.commit("models", "o/m", weights | {"model.safetensors": b"new"})
    found = read_lock(lock)
    again = (
        hub.load_problems(problems, None, locked_commit(found, problems)),
        fetch_model(model, None, tmp_path / "again", locked_commit(found, model)),
    )
    assert again == first
    assert (tmp_path / "again/model.safetensors").read_bytes() == b"old"
    assert is_locked(found, again[0][1], lock)
    with pytest.raises(DataError, match=r"model o/m, revision main: model\.safetensors has changed"):
        is_locked(found, fetch_model(model, None, tmp_path / "head"), lock)


# --- damage


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("entries: [", "is not valid YAML"),
        ("- a\n", "must hold keys and values"),
        ("version: 2\nentries: []\n", "version: unknown value 2"),
        ("version: 1\nentries:\n- {kind: dataset}\n", "entries.*files: is missing"),
        (f"version: 1\nentries:\n- {{kind: model, repo: o/m, files: {FILES}}}\n", "revision: is missing"),
        (f"entries:\n- {{kind: model, package: a==1, path: b, files: {FILES}}}\n", "repo, package and path"),
        (f"version: 1\nentries:\n- {{kind: model, files: {FILES}}}\n", "repo: is missing"),
        ("version: 1\nentries:\n- {kind: model, repo: o/m, revision: main, commit: main, files: {}}\n", "commit: "),
    ],
)
def test_a_damaged_lock_file_is_named(lock: Path, content: str, message: str) -> None:
    lock.parent.mkdir()
    lock.write_text(content)
    with pytest.raises(ConfigError, match=f"hub.lock: .*{message}"):
        read_lock(lock)


def test_a_lock_file_that_does_not_exist_is_not_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "my own.lock"
    with pytest.raises(ConfigError) as caught:
        read_lock(path)
    text, command = str(caught.value), f"echo 'version: 1' > '{path}'"
    assert text.startswith(f"{path}: there is no such lock file; copy config/hub.lock of the clone there, or start")
    assert text.endswith(command)
    subprocess.run(command, shell=True, check=True)
    assert read_lock(path) == HubLock()


def test_the_lock_beside_the_configuration_comes_first(tmp_path: Path) -> None:
    own = tmp_path / "clone/config/hub.lock"
    assert find_lock(tmp_path / "my.yaml", own) == find_lock(None, own) == own
    (tmp_path / "hub.lock").touch()
    assert find_lock(tmp_path / "my.yaml", own) == tmp_path / "hub.lock"


# --- the committed file


def test_the_real_data_sets_are_as_the_committed_lock_says(data_mirror: Path) -> None:
    found, verified = read_lock(COMMITTED), []
    config = load_config(ROOT / "config/paper.yaml")
    for name, settings in {**config.datasets, **config.benchmarks}.items():
        assert isinstance(settings, HubProblems)
        provenance = json.loads(json.dumps(hub.load_problems(settings, data_mirror)[1]))
        if is_locked(found, provenance, COMMITTED):
            verified.append(name)
    assert verified == [*config.datasets, *config.benchmarks]


def test_the_committed_lock_is_as_the_command_writes_it(tmp_path: Path) -> None:
    copy = tmp_path / "hub.lock"
    copy.write_bytes(COMMITTED.read_bytes())
    before = read_lock(copy).entries
    add_to_lock(copy, [record()])
    after = copy.read_text(encoding="utf-8")
    assert len(read_lock(copy).entries) == len(before) + 1
    assert set(COMMITTED.read_text(encoding="utf-8").splitlines()) <= set(after.splitlines())
