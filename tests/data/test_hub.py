"""Data sets from the mirror: the real ones if they are available, and every shape that a row or a setting can have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from nested_reft.config.experiment import load_config
from nested_reft.config.sources import HubProblems
from nested_reft.data import hub
from nested_reft.data.records import DataError
from nested_reft.data.repositories import MIRROR_VARIABLE, mirror_from_environment


def source(repo: str = "o/d", split: str = "test", question: Any = "question", **keys: Any) -> HubProblems:
    settings = {"source": "hub", "repo": repo, "split": split, "question": question, "answer": "answer", **keys}
    return HubProblems.model_validate(settings)


def write_lines(folder: Path, *rows: Any, name: str = "test.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


GSM8K = {"name": "main", "answer_pattern": r"####\s*(.+)"}
REAL = [
    (source("ChilleD/SVAMP", "train", ["Body", "Question"], answer="Answer"), 700, 0),
    (source("ChilleD/SVAMP", "test", ["Body", "Question"], answer="Answer"), 300, 0),
    (source("openai/gsm8k", "train", **GSM8K), 7473, 0),
    (source("openai/gsm8k", "test", **GSM8K), 1319, 0),
    (source("hiyouga/math12k", "train", "problem"), 11998, 2),
    (source("hiyouga/math12k", "test", "problem"), 500, 0),
    (source("HuggingFaceH4/MATH-500", "test", "problem"), 500, 0),
    (source("HuggingFaceH4/aime_2024", "train", "problem"), 30, 0),
    (source("math-ai/amc23"), 40, 0),
    (source("math-ai/minervamath"), 272, 0),
    (source("math-ai/olympiadbench"), 675, 0),
]


@pytest.mark.parametrize(("settings", "kept", "dropped"), REAL, ids=lambda value: getattr(value, "repo", str(value)))
def test_real_data_sets_load_whole(data_mirror: Path, settings: HubProblems, kept: int, dropped: int) -> None:
    problems, provenance = hub.load_problems(settings, data_mirror)
    assert len(problems) == kept == provenance["rows_kept"]
    assert provenance["rows_dropped_empty"] == dropped
    assert provenance["rows_read"] == provenance["rows"] == kept + dropped
    assert len({problem.id for problem in problems}) == kept
    assert all(problem.question and problem.answer for problem in problems)
    assert provenance["origin"] == "mirror"
    assert provenance["resolved_revision"] is None


def real(mirror: Path, repo: str, split: str) -> dict[str, tuple[str, str]]:
    settings = next(settings for settings, _, _ in REAL if (settings.repo, settings.split) == (repo, split))
    return {problem.id: (problem.question, problem.answer) for problem in hub.load_problems(settings, mirror)[0]}


def test_what_is_known_of_the_real_data_sets(data_mirror: Path) -> None:
    """Empty answers are dropped and ids stay row numbers; answers have the form that the grader takes."""
    ids = real(data_mirror, "hiyouga/math12k", "train").keys()
    assert {f"train-{row}" for row in range(12000)} - ids == {"train-1165", "train-8125"}
    assert real(data_mirror, "math-ai/amc23", "test")["test-0"][1] == "27"
    answers = [answer for _, answer in real(data_mirror, "HuggingFaceH4/aime_2024", "train").values()]
    assert all(len(answer) == 3 and answer.isdigit() for answer in answers)
    assert "025" in answers
    assert real(data_mirror, "openai/gsm8k", "test")["test-0"][1] == "18"
    question, answer = real(data_mirror, "ChilleD/SVAMP", "test")["test-0"]
    assert question.startswith("Mary is baking a cake.")
    assert question.endswith("5 cups of flour. How many more cups of sugar than cups of salt does she need to add now?")
    assert answer == "1"


def test_cells_become_text(tmp_path: Path) -> None:
    empty = [None, "", " ", [], [""], float("nan"), "\u200b", "\ufeff\u2060"]
    cells = [27.0, 0.5, "025", 7, ["\\frac{1}{2}", "3"], [4.0], " x ", *empty]
    write_lines(tmp_path / "o/d", *({"question": "q", "answer": cell} for cell in cells))
    problems, provenance = hub.load_problems(source(), tmp_path)
    assert [problem.answer for problem in problems] == ["27", "0.5", "025", "7", "\\frac{1}{2}, 3", "4", "x"]
    assert provenance["rows_dropped_empty"] == len(empty)


ASKED = [{"role": "system", "content": "s"}, {"role": "user", "content": "6 * 7?"}]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_fields_and_chat_messages_can_be_named(tmp_path: Path, format: str) -> None:
    row = {
        "prompt": ASKED, "reward_model": {"style": "rule", "ground_truth": "42"},
        "done": [*ASKED, {"role": "assistant", "content": "It is 42."}],
    }  # fmt: skip
    folder = tmp_path / "o/d"
    write_lines(folder, row)
    if format == "parquet":
        (folder / "test.jsonl").unlink()
        datasets.Dataset.from_list([row]).to_parquet(str(folder / "test.parquet"))
    settings = source(question="prompt", answer=["truth", "reward_model.ground_truth"], solution="{done}")
    (problem,) = hub.load_problems(settings, tmp_path)[0]
    assert (problem.question, problem.answer, problem.solution) == ("6 * 7?", "42", "It is 42.")
    settings = source(question="prompt", answer="reward_model.style", solution="It is {reward_model.ground_truth}.")
    assert hub.load_problems(settings, tmp_path)[0][0].solution == "It is 42."
    with pytest.raises(
        DataError,
        match=r"did you mean 'reward_model.ground_truth'.*columns: prompt, reward_model, done, reward_model.style, ",
    ):
        hub.load_problems(source(question="prompt", answer="reward_model.truth"), tmp_path)
    with pytest.raises(DataError, match="'prompt' holds messages, but none of the role 'assistant'"):
        hub.load_problems(source(question="prompt", answer="prompt"), tmp_path)


def test_repeated_problems_are_kept_and_counted(tmp_path: Path) -> None:
    rows = [{"question": f"q{row % 3}", "answer": str(row % 3)} for row in range(300)]
    write_lines(tmp_path / "o/d", *rows, {"question": "q0", "answer": "1"})
    problems, provenance = hub.load_problems(source(), tmp_path)
    assert (len(problems), provenance["rows_repeated"]) == (301, 297)


def of_the_paper(benchmark: str) -> HubProblems:
    settings = load_config(Path(__file__).parents[2] / "config/paper.yaml").benchmarks[benchmark]
    assert isinstance(settings, HubProblems)
    return settings


def test_both_shapes_of_olympiadbench_load_with_one_config_entry(tmp_path: Path, data_mirror: Path) -> None:
    """The real file has text in `answer`; newer versions have a list in `final_answer`, in parquet."""
    settings = of_the_paper("olympiadbench")
    old = hub.load_problems(settings, data_mirror)[0]
    folder = tmp_path / settings.repo
    folder.mkdir(parents=True)
    rows = [{"question": p.question, "final_answer": [p.answer], "answer_type": "Numerical"} for p in old]
    rows[0]["final_answer"] = ["$(1,2)$", "$(2,1)$"]
    rows[1]["final_answer"] = []
    datasets.Dataset.from_list(rows).to_parquet(str(folder / "test-00000-of-00001.parquet"))
    new, provenance = hub.load_problems(settings, tmp_path)
    assert new[0].answer == "$(1,2)$, $(2,1)$"
    assert [(p.id, p.question, p.answer) for p in new[1:]] == [(p.id, p.question, p.answer) for p in old[2:]]
    assert (len(old), provenance["rows"], provenance["rows_dropped_empty"]) == (675, 675, 1)


def test_shards_are_read_in_order_and_all_needed(tmp_path: Path) -> None:
    folder = tmp_path / "o/d/main"
    folder.mkdir(parents=True)
    for shard in (1, 0):
        rows = datasets.Dataset.from_dict({"question": [f"q{shard}"], "answer": [str(shard)]})
        rows.to_parquet(str(folder / f"test-0000{shard}-of-00002.parquet"))
    problems, provenance = hub.load_problems(source(name="main"), tmp_path)
    assert [(p.id, p.answer) for p in problems] == [("test-0", "0"), ("test-1", "1")]
    assert list(provenance["files"]) == [f"main/test-0000{shard}-of-00002.parquet" for shard in (0, 1)]
    (folder / "test-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="holds 1 of the 2 parquet shards"):
        hub.load_problems(source(name="main"), tmp_path)


def test_limit_counts_kept_problems(tmp_path: Path) -> None:
    write_lines(tmp_path / "o/d", *({"question": "q", "answer": answer} for answer in ["", "1", "2", "3"]))
    problems, provenance = hub.load_problems(source(limit=2), tmp_path)
    assert [problem.id for problem in problems] == ["test-1", "test-2"]
    assert (provenance["rows_read"], provenance["rows_kept"], provenance["rows_dropped_empty"]) == (3, 2, 1)
    assert provenance["rows"] == 4


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"answer": "anser"}, "no column 'anser', did you mean 'answer'.*columns: question, answer"),
        ({"question": ["question", "body"]}, "no column 'body'"),
        ({"answer_pattern": "(["}, r"answer_pattern '\(\[' is not a regular expression"),
        ({"answer_pattern": "####"}, "needs a group"),
        ({"answer_pattern": "####(.*)"}, r"o/d, split test, row 0: answer_pattern '####\(\.\*\)' is not found in '1'"),
        ({"split": "tset"}, r"tset\.jsonl.*no such file.*did you mean 'test'.*put it there"),
        ({"name": "main"}, r"o/d/main/test\.jsonl"),
        ({"repo": "o/absent"}, r"o/absent/test\.jsonl"),
    ],
)
def test_wrong_settings_are_one_clear_error(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    write_lines(tmp_path / "o/d", {"question": "q", "answer": "1"})
    with pytest.raises(DataError, match=message):
        hub.load_problems(source(**keys), tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.jsonl", '{"question": "é", "answer": "1"}'.encode("latin-1"), "not UTF-8"),
        ("test.jsonl", b"[1, 2]\n", "line 1: is not an object"),
        ("test.jsonl", b"[" * 100_000, "line 1: is not JSON"),
        ("test.jsonl", b'{"question": "q", "answer": {"a": 1}}\n', "row 0: column 'answer' holds neither"),
        ("test.jsonl", b'{"question": "q", "answer": true}\n', "row 0: column 'answer' holds neither"),
        ("test.jsonl", b'{"question": "q", "answer": 1e400}\n', "holds inf, or a number too large.*write it as text"),
        ("test.jsonl", b'{"question": "q", "answer": -Infinity}\n', "holds -inf, or a number too large"),
        ("test.jsonl", b'{"question": "q", "answer": ""}\n', "none of the 1 rows"),
        ("test.parquet", b"", "not a readable parquet file"),
        ("test.parquet", b"PAR1 cut off", "not a readable parquet file"),
    ],
)
def test_damaged_files_are_one_clear_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / "o/d").mkdir(parents=True)
    (tmp_path / "o/d" / name).write_bytes(content)
    with pytest.raises(DataError, match=f"o/d.*{message}"):
        hub.load_problems(source(), tmp_path)


def test_mirror_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    assert mirror_from_environment() is None
    monkeypatch.setenv(MIRROR_VARIABLE, str(tmp_path))
    assert mirror_from_environment() == tmp_path
    monkeypatch.setenv(MIRROR_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"NESTED_REFT_DATA_MIRROR=.*absent: no such folder"):
        mirror_from_environment()
