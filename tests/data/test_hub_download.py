"""Data sets and models of the hub: the real client against a hub on this machine (`fake_hub`)."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub
from huggingface_hub import constants

from nested_reft.config.sources import HubModel, HubProblems
from nested_reft.data import hub
from nested_reft.data.hub_models import fetch_model
from nested_reft.data.records import DataError
from nested_reft.data.repositories import hub_error

ONE, TWO = ({"question": "1 + 1 =", "answer": "2"}, {"question": "2 + 2 =", "answer": "4"})
README = b"""---
configs:
- config_name: main
  data_files:
  - split: test
    path: main/test-*
- config_name: other
  data_files: other/*.json
---
"""
MODEL = {"config.json": b'{"num_hidden_layers": 2}', "model.safetensors": b"abc", "tokenizer.json": b"{}"}


def source(**keys: Any) -> HubProblems:
    settings = {"source": "hub", "repo": "o/d", "split": "test", "question": "question", "answer": "answer"}
    return HubProblems.model_validate(settings | keys)


def model(**keys: Any) -> HubModel:
    return HubModel.model_validate({"source": "hub", "repo": "o/m", "layers": 2} | keys)


def lines(*rows: dict[str, str]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def go_offline(monkeypatch: pytest.MonkeyPatch, fake_hub: FakeHub) -> None:
    """What HF_HUB_OFFLINE=1 sets; and nobody would answer."""
    fake_hub.close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


# --- data sets


def test_a_data_set_is_fetched_at_the_commit_that_is_recorded(fake_hub: FakeHub) -> None:
    commit = fake_hub.commit("datasets", "o/d", {"test.jsonl": lines(ONE, TWO), "loader.py": b"raise SystemExit"})
    problems, provenance = hub.load_problems(source(), None)
    assert [(p.id, p.question, p.answer) for p in problems] == [("test-0", "1 + 1 =", "2"), ("test-1", "2 + 2 =", "4")]
    digest = hashlib.sha256(lines(ONE, TWO)).hexdigest()
    assert provenance == {
        "kind": "dataset", "repo": "o/d", "config_name": None, "split": "test", "requested_revision": "main",
        "resolved_revision": commit, "origin": "hub", "files": {"test.jsonl": {"bytes": 78, "sha256": digest}},
        "rows": 2, "rows_read": 2, "rows_kept": 2, "rows_dropped_empty": 0, "rows_repeated": 0,
    }  # fmt: skip
    assert not [path for path in fake_hub.downloads if path.startswith("o/d/loader.py")]


def test_the_card_says_which_files_a_split_has(fake_hub: FakeHub) -> None:
    files = {"README.md": README, "main/test-1.jsonl": lines(ONE), "main/test-2.jsonl": lines(TWO)}
    other = json.dumps([{"question": "q", "answer": "025"}]).encode()
    fake_hub.commit("datasets", "o/d", files | {"other/a.json": other, "test.jsonl": lines(TWO, TWO)})
    problems, provenance = hub.load_problems(source(name="main"), None)
    assert [problem.answer for problem in problems] == ["2", "4"]
    assert list(provenance["files"]) == ["main/test-1.jsonl", "main/test-2.jsonl"]
    assert hub.load_problems(source(name="other", split="train"), None)[0][0].answer == "025"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, r"Config name is missing.*\['main', 'other'\].*correct `name` or `split` of o/d"),
        ({"name": "mian"}, r"'mian' not found.*\['main', 'other'\].*correct `name` or `split` of o/d"),
        ({"name": "main", "split": "tets"}, "there is no split 'tets', did you mean 'test'?"),
        ({"revision": "v2"}, "dataset o/d, revision v2: .*correct `revision`"),
        ({"repo": "o/absent"}, "dataset o/absent, revision main: .*correct `repo`; if it is private, run `hf auth"),
        ({"repo": "o/gated"}, "accept its terms at https://huggingface.co/datasets/o/gated and run `hf"),
        ({"repo": "o/former"}, "dataset o/former: has moved; write `repo: o/d`"),
        ({"repo": "o/zip"}, "Couldn't find any data file.*supported are JSON lines, JSON, CSV and parquet"),
    ],
)
def test_what_cannot_be_had_is_one_line_with_the_fix(fake_hub: FakeHub, keys: dict[str, Any], message: str) -> None:
    files = {"README.md": README, "main/test-1.jsonl": lines(ONE), "other/a.json": lines(ONE)}
    for repo in ("o/d", "o/gated"):
        fake_hub.commit("datasets", repo, files)
    fake_hub.commit("datasets", "o/zip", {"data.zip": b"PK"})
    fake_hub.gated.add(("datasets", "o/gated"))
    fake_hub.moved["datasets", "o/former"] = "o/d"
    with pytest.raises(DataError, match=message) as caught:
        hub.load_problems(source(**keys), None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "words", "remedy"),
    [
        (401, "Invalid credentials in Authorization header", "refuses your token, which may have expired: run `hf"),
        (403, "Forbidden", "your token does not permit it: give it read access"),
        (404, "Not found", "correct `repo`"),
        (429, "Too many", "too many requests: wait some minutes"),
        (500, "Oops", "an error of its own (500): try again later"),
    ],
)  # fmt: skip
def test_a_refusal_is_not_blamed_on_the_network(fake_hub: FakeHub, status: int, words: str, remedy: str) -> None:
    fake_hub.refused = status, words
    with pytest.raises(DataError) as caught:
        hub.load_problems(source(), None)
    assert str(status) in str(caught.value)
    assert remedy in str(caught.value)
    assert "check the network" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_not_blamed_on_the_network() -> None:
    text = str(hub_error("model", "o/m", "main", OSError(28, "No space left on device", "/cache")))
    assert "No space left on device: '/cache'" in text
    assert text.endswith("make room there, or permit writing")


def test_a_moved_branch_is_not_followed_where_a_commit_is_given(fake_hub: FakeHub) -> None:
    first = fake_hub.commit("datasets", "o/d", {"test.jsonl": lines(ONE)})
    fake_hub.commit("datasets", "o/d", {"test.jsonl": lines(TWO)})
    assert hub.load_problems(source(), None)[0][0].answer == "4"
    problems, provenance = hub.load_problems(source(), None, commit=first)
    assert problems[0].answer == "2"
    assert (provenance["requested_revision"], provenance["resolved_revision"]) == ("main", first)


def test_no_network_ends_at_once_with_a_remedy(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.close()
    for call in (lambda: hub.load_problems(source(), None), lambda: fetch_model(model(), None, tmp_path / "m")):
        with pytest.raises(DataError, match=r"check the network, or set NESTED_REFT_DATA_MIRROR.*HF_HUB_OFFLINE=1"):
            call()


# --- offline, from the hub's cache


def test_offline_the_cache_serves_the_revision_that_was_asked_for(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the newest of it: `datasets` by itself takes whatever version it has prepared last."""
    first = fake_hub.commit("datasets", "o/d", {"test.jsonl": lines(ONE)})
    online = hub.load_problems(source(revision=first), None)
    second = fake_hub.commit("datasets", "o/d", {"test.jsonl": lines(TWO)})
    hub.load_problems(source(), None)
    go_offline(monkeypatch, fake_hub)
    assert hub.load_problems(source(revision=first), None) == online
    problems, provenance = hub.load_problems(source(), None)
    assert (problems[0].answer, provenance["resolved_revision"]) == ("4", second)


def test_offline_what_the_cache_lacks_is_named_with_the_command(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    go_offline(monkeypatch, fake_hub)
    command = "hf download --repo-type dataset o/d --revision v1"
    with pytest.raises(DataError, match=f"dataset o/d, revision v1: .*set NESTED_REFT_DATA_MIRROR.*{command}"):
        hub.load_problems(source(revision="v1"), None)
    with pytest.raises(DataError, match=r"model o/m, revision main: .*hf download --repo-type model o/m"):
        fetch_model(model(), None, tmp_path / "m")


# --- models


def put_model(files: dict[str, bytes], fake_hub: FakeHub, mirror: Path | None) -> str | None:
    """On the hub, or into the mirror; the commit if it is known."""
    if mirror is None:
        return fake_hub.commit("models", "o/m", files)
    shutil.rmtree(mirror, ignore_errors=True)
    for name, content in files.items():
        path = mirror / "o/m" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return None


@pytest.fixture(params=["hub", "mirror"])
def mirror(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "mirror" if request.param == "mirror" else None


def test_a_model_is_fetched_without_pickles_and_stays_when_the_cache_goes(
    fake_hub: FakeHub, mirror: Path | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = MODEL | {"additional_chat_templates/a.jinja": b"a"}
    commit = put_model(wanted | {"pytorch_model.bin": b"pickle", "code.py": b""}, fake_hub, mirror)
    out = tmp_path / "m"
    provenance = fetch_model(model(), mirror, out)
    found = [path for path in out.rglob("*") if path.is_file()]
    assert {path.relative_to(out).as_posix(): path.read_bytes() for path in found} == wanted
    assert not any(path.is_symlink() for path in found)
    assert provenance["files"]["model.safetensors"] == {
        "bytes": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",  # FIPS 180-2, example "abc"
    }
    assert (provenance["origin"], provenance["resolved_revision"]) == ("mirror" if mirror else "hub", commit)
    go_offline(monkeypatch, fake_hub)
    assert fetch_model(model(), mirror, tmp_path / "again") == provenance


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            MODEL | {"config.json": b'{"num_hidden_layers": 28}'},
            "has 28 layers, but the configuration says `layers: 2`",
        ),
        (MODEL | {"config.json": b"{}"}, "does not state num_hidden_layers"),
        ({"model.safetensors": b"abc"}, "has no config.json"),
        ({"config.json": MODEL["config.json"], "pytorch_model.bin": b"pickle"}, r"has no \.safetensors file"),
    ],
)
def test_a_model_that_cannot_be_used_stops_before_the_weights(
    fake_hub: FakeHub, mirror: Path | None, tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    put_model(files, fake_hub, mirror)
    with pytest.raises(DataError, match=message):
        fetch_model(model(), mirror, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert "o/m/model.safetensors" not in {path.partition("@")[0] for path in fake_hub.downloads}


def test_a_model_that_is_gated_or_not_in_the_mirror_is_named(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.commit("models", "o/m", MODEL)
    fake_hub.gated.add(("models", "o/m"))
    with pytest.raises(DataError, match=r"model o/m.*accept its terms at https://huggingface.co/o/m and run `hf auth"):
        fetch_model(model(), None, tmp_path / "m")
    with pytest.raises(DataError, match=r"o/m: no such model folder.*unset NESTED_REFT_DATA_MIRROR"):
        fetch_model(model(), tmp_path / "mirror", tmp_path / "m")


def test_an_error_of_many_lines_is_told_in_one() -> None:
    assert "\n" not in str(hub_error("model", "o/m", "main", RuntimeError("first\nsecond")))
