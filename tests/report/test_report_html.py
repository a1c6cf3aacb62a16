"""Pages of the report: what they show, and that no text of a model can break them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from synthetic import collect_results, make_config, write_results

from nested_reft.config.experiment import Config, parse_config
from nested_reft.report.collect.collect import collect
from nested_reft.report.pages.html import LONGEST_ANSWER, shortened, visible
from nested_reft.report.pages.page import Page, write_table_html
from nested_reft.report.pages.runs import environment, samples
from nested_reft.report.registry import PAGES
from nested_reft.report.tidy import read_table

ADVERSARIAL = [
    "<script>alert(1)</script>",
    "</span></td></table></body></html>",
    "<img src=x onerror=alert(1)>",
    "\"'><svg/onload=alert(1)>",
    "{{ 7 * 7 }} {% raw %}",
    "&lt;b&gt; &amp; ]]> <!-- -->",
    "one\r\ntwo\tthree\x00\x1b[31mred\x7f",
    "right \u202ethgir\u202c \u200bzero",
    "x" * 5000,
    "",
    "   ",
    "NaN",
    "naïve 数学 🙂 \\frac{1}{2} $x$",
]


class Reader(HTMLParser):
    """Elements in order, with the text of those of class `text`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.marks: list[str] = []
        self._into: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        classes = (dict(attrs).get("class") or "").split()
        if tag == "span" and classes:
            self._into = self.marks if "mark" in classes else self.texts
            self._into.append("")
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag == "span":
            self._into = None

    def handle_data(self, data: str) -> None:
        if self._into is not None:
            self._into[-1] += data


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    return reader


@pytest.fixture
def tiny() -> Config:
    return make_config(sizes=1, benchmarks=1, skips=(10,), corrections=("base",), seeds=(1,), steps=1)


def write_completions(root: Path, config: Config, texts: list[str]) -> None:
    """Every model answered each of `texts`; the first is right."""
    write_results(root, config)
    for path in (root / "evaluations").rglob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        record["completions"] = [
            {"id": f"p{number}", "prompt": text, "gold": text, "kind": kind, "response": text, "right": not number}
            for number, text in enumerate(texts)
            for kind in ("greedy", "sampled")
        ]
        path.write_text(json.dumps(record), encoding="utf-8")
    collect(root, config)


def test_adversarial_completions_stay_text(tmp_path: Path, tiny: Config) -> None:
    write_completions(tmp_path, tiny, ADVERSARIAL)
    PAGES["samples"].load()(tmp_path, tiny)
    harmless = tmp_path / "harmless"
    write_completions(harmless, tiny, [f"text {number}" for number in range(len(ADVERSARIAL))])
    PAGES["samples"].load()(harmless, tiny)
    found, expected = read(tmp_path / "pages/samples.html"), read(harmless / "pages/samples.html")
    assert found.tags == expected.tags
    assert "script" not in found.tags
    assert {shortened(visible(text)) for text in ADVERSARIAL} <= set(found.texts)
    page = (tmp_path / "pages/samples.html").read_text(encoding="utf-8")
    assert "default-src 'none'; style-src 'unsafe-inline'" in page


def test_texts_survive_the_table(tmp_path: Path, tiny: Config) -> None:
    write_completions(tmp_path, tiny, ADVERSARIAL)
    table = read_table(tmp_path, "samples")
    greedy = table[(table["correction"] == "pretrained") & (table["kind"] == "greedy")]
    for column in ("prompt", "gold", "response"):
        assert list(greedy[column]) == ADVERSARIAL
    assert list(greedy["right"]) == [True] + [False] * (len(ADVERSARIAL) - 1)


def test_hidden_characters_are_named_and_long_texts_shortened() -> None:
    assert visible("a\u202eb\x1b\r\nc") == "a[U+202E]b[U+001B][U+000D]\nc"
    assert visible("naïve 数学 🙂") == "naïve 数学 🙂"
    assert shortened("x" * LONGEST_ANSWER) == "x" * LONGEST_ANSWER
    assert shortened("x" * 5000).startswith("x" * LONGEST_ANSWER + " … (5,000 characters")


def test_right_and_wrong_are_marked_by_word_and_sign(tmp_path: Path, tiny: Config) -> None:
    write_completions(tmp_path, tiny, ["first", "second"])
    PAGES["samples"].load()(tmp_path, tiny)
    assert read(tmp_path / "pages/samples.html").marks == ["✓ right"] * 6 + ["✗ wrong"] * 6  # 3 models, 2 kinds


def test_samples_are_by_problem_and_size_with_every_model(tmp_path: Path) -> None:
    of = {"skips": (10,), "corrections": ("base", "unit"), "seeds": (1,), "strategies": ("uniform", "static")}
    config = make_config(sizes=2, steps=1, **of)
    collect_results(tmp_path, config)
    problems = samples(read_table(tmp_path, "samples"))
    assert [(problem["benchmark"], problem["id"]) for problem in problems] == [(n, f"{n}-0") for n in config.benchmarks]
    names = ["pre-trained", "stories: baseline ReFT, seed 1", "stories: base, skip 10 %, seed 1"]
    names += ["stories: unit, skip 10 %, seed 1", "stories: unit, skip 10 %, static, seed 1"]
    for problem in problems:
        models = {size: [row["model"] for row in rows] for size, rows in problem["answers"].items()}
        assert models == {"small": names, "large": names}
    assert problems[1]["prompt"] == "What is 1 ? answer :"
    answer = {"response": "1 + 0 = 1", "right": True}
    assert problems[1]["answers"]["large"][0]["answers"] == {"greedy": answer, "sampled": answer}


def test_disagreements_come_first() -> None:
    model = {"dataset": "d", "correction": "base", "strategy": "uniform", "seed": 1, "size": "small"}
    model |= {"benchmark": "b", "prompt": "?", "gold": "1", "kind": "greedy", "response": "1"}
    rights = {"all right": (True, True), "differ": (True, False), "all wrong": (False, False)}
    rows = [
        {**model, "problem": problem, "skip": skip, "right": right}
        for problem, each in rights.items()
        for skip, right in zip((0, 10), each, strict=True)
    ]
    # That models of different sizes differ is nothing that skipping has to do with.
    rows.append({**model, "problem": "all right", "skip": 0, "right": False, "size": "large"})
    found = [(problem["id"], problem["disagree"]) for problem in samples(pd.DataFrame(rows))]
    assert found == [("differ", True), ("all right", False), ("all wrong", False)]


def test_environment_has_a_column_for_each_that_differs(tmp_path: Path) -> None:
    config = make_config(sizes=1, skips=(10,), corrections=("base",), seeds=(1, 2), steps=1)
    write_results(tmp_path, config)
    path = tmp_path / "runs/small/stories/base/skip10/seed2/manifest.json"
    changed: dict[str, Any] = json.loads(path.read_text()) | {"processor": "Another", "alarms": [{"step": 1}]}
    path.write_text(json.dumps(changed))
    collect(tmp_path, config)
    (_, made), (_, each) = environment(read_table(tmp_path, "manifests")).tables
    found = made.set_index("").T.to_dict("list")
    assert found["runs"] == ["3", "1"]
    assert found["processor"] == ["A processor", "Another"]
    assert found["packages"] == ["torch==2.9.0 numpy==2.1.0"] * 2
    assert found["gpus"] == ["none"] * 2
    assert list(each["alarms"]) == ["0", "0", "0", "1"]
    assert list(each["seconds"]) == ["1.5"] * 4


def test_settings_are_the_whole_experiment(tmp_path: Path, tiny: Config) -> None:
    PAGES["settings"].load()(tmp_path, tiny)
    page = (tmp_path / "pages/settings.html").read_text(encoding="utf-8")
    text = page.partition("<pre>")[2].partition("</pre>")[0].replace("&#39;", "'").replace("&#34;", '"')
    assert parse_config(yaml.safe_load(text)) == tiny


def test_nothing_run_is_said_on_every_page(tmp_path: Path, tiny: Config) -> None:
    collect(tmp_path, tiny)
    for name in ("samples", "environment"):
        PAGES[name].load()(tmp_path, tiny)
        assert "not run" in (tmp_path / f"pages/{name}.html").read_text(encoding="utf-8").lower()


def test_tables_escape_their_cells_and_colour_verdicts(tmp_path: Path) -> None:
    table = pd.DataFrame({"a<b": ["<i>1</i>"], "verdict": ["not run"]})
    write_table_html(tmp_path / "t.html", Page("T & U", (("<h>", table),), "see `low` & <x>"))
    text = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert "<h2>&lt;h&gt;</h2>" in text
    assert '<th scope="col">a&lt;b</th>' in text
    assert "<td>&lt;i&gt;1&lt;/i&gt;</td>" in text
    assert '<td class="mark not-run">not run</td>' in text
    for verdict in ("supported", "refuted", "partly", "inconclusive", "not-assessable"):
        assert re.search(rf"\.{verdict}(, \.[\w-]+)* {{ color", text), verdict
        assert re.search(rf"td\.{verdict}::before(, td[\w.-]+::before)* {{ content", text), verdict
    assert "see low &amp; &lt;x&gt;" in text
