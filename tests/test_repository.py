"""What surrounds the code agrees with it: citation, formatters, CI, issue forms, and what the pages name."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from grimp import build_graph
from packaging.specifiers import SpecifierSet

import nested_reft
from nested_reft.report.registry import PAGES as REPORT_PAGES
from nested_reft.report.registry import PRESENTATION_TABLES, TABLE_KINDS, TIDY_TABLES

ROOT = Path(__file__).parents[1]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
PAGES = [
    ROOT / name
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "config/README.md", "results/README.md")
] + sorted((ROOT / "docs").glob("*.md"))  # fmt: skip
PROMISING = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which tells of what is gone


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(read("pyproject.toml"))["project"]
    return found


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == project()["version"] == nested_reft.__version__
    assert citation["license"] == project()["license"]
    (paper,) = citation["references"]
    number = paper["identifiers"][0]["value"].removeprefix("arXiv:")
    assert paper["url"] == f"https://arxiv.org/abs/{number}"
    assert f"[arXiv {number}]({paper['url']})" in read("README.md")
    assert paper["year"] == 2000 + int(number[:2]) == paper["date-published"].year
    assert [author["family-names"] for author in paper["authors"]] == [
        "Heuillet", "Cui", "Chen", "Durand", "Parthasarathi",
    ]  # fmt: skip


def test_pre_commit_formats_every_file_of_the_workflow_and_no_other_with_the_locked_versions() -> None:
    (local,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    pins = {pin for hook in local["hooks"] for pin in hook["additional_dependencies"]}
    assert pins
    assert pins <= set(read("requirements.lock").splitlines())
    (pattern,) = (hook["files"] for hook in local["hooks"] if hook["id"] == "snakefmt")
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "workflow").rglob("*") if path.is_file()]
    chosen = {name for name in [*files, "Snakefile", "pyproject.toml"] if re.search(pattern, name)}
    assert chosen == {"Snakefile", "workflow/Snakefile", *(name for name in files if name.endswith(".smk"))}


def test_ci_runs_what_contributors_run() -> None:
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    runs = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert {".ci/run", "make test-vllm"} <= set(runs)  # an environment each, so a job each
    assert "test-vllm" not in read(".ci/run")
    for job in workflow["jobs"].values():
        (python,) = (step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
        assert SpecifierSet(project()["requires-python"]).contains(f"{python}.0")


def test_issue_forms_have_what_github_asks_for() -> None:
    assert [form.stem for form in FORMS] == ["bug", "claim-not-reproduced"]
    for form in FORMS:
        content = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert all(isinstance(content[key], str) and content[key] for key in ("name", "description"))
        assert len({field["id"] for field in content["body"]}) == len(content["body"])
        for field in content["body"]:
            assert field["type"] in ("input", "textarea")
            assert field["attributes"]["label"]


def test_the_workflow_catalogue_finds_what_it_promises() -> None:
    usage = yaml.safe_load(read(".snakemake-workflow-catalog.yml"))["usage"]
    assert {name for name, works in usage["software-stack-deployment"].items() if works} == {"conda"}
    assert usage["report"] is True
    for name in ("environment.yml", "config/README.md", "workflow/Snakefile"):
        assert (ROOT / name).is_file()
    assert yaml.safe_load(read("environment.yml"))["name"] == project()["name"]  # the name that the rules use


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        targets = re.findall(r"\]\((?!https?://)([^)#]+)[^)]*\)", text) + re.findall(r'<img src="([^"]+)"', text)
        assert [target for target in targets if not (page.parent / target).exists()] == [], page


# What a user, Snakemake, a hub or `make gpu` makes.
ELSEWHERE = re.compile(
    r"results|(results|own|path)/.*|\.snakemake|config/nested_reft\.yaml|docs/benchmarks-gpu\.md|(config|tokenizer)\.json"
)


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """Every file and folder of the repository, and every end of their paths: `core/loss.py`, `loss.py`. Tables, too."""
    top = [path for path in ROOT.iterdir() if path.is_file()]
    folders = ("src", "tests", "docs", "config", "workflow", "tools", "benchmarks", "examples", ".ci", ".github")
    found = top + [path for folder in folders for path in [ROOT / folder, *(ROOT / folder).rglob("*")]]
    parts = [path.relative_to(ROOT).parts for path in found]
    made = [f"{name}.csv" for name in TIDY_TABLES]
    made += [f"{name}.{kind}" for name in PRESENTATION_TABLES for kind in TABLE_KINDS]
    tables = {f"{folder}{name}" for name in made for folder in ("", "tables/")}
    return tables | {"/".join(names[start:]) for names in parts for start in range(len(names))}


def snippets(page: Path) -> list[str]:
    """The blocks of code and the `snippets` of a page."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    return blocks + re.findall(r"`([^`]+)`", prose)


@pytest.mark.parametrize("page", PROMISING, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_exist(page: Path, tracked: set[str]) -> None:
    words = {word.strip("'\",;:()") for text in snippets(page) for word in text.split()}
    name = r"(\.\./)?[\w.-]+(/[\w.-]+)*(\.(py|md|yaml|yml|smk|csv|toml|lock|cff|rst|ipynb|sh|json)|/)"
    paths = {word.removeprefix("../").rstrip("/") for word in words if re.fullmatch(name, word)}
    made = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "workflow/rules").glob("*.smk"))
    assert {path for path in paths - tracked if not ELSEWHERE.fullmatch(path) and f"/{path}" not in made} == set()


@pytest.mark.parametrize("page", PROMISING, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_and_keys_that_a_page_names_exist(page: Path) -> None:
    """Targets of make, sub-commands, extras, and keys of the configuration."""
    text = "\n".join(snippets(page))
    targets = set(re.findall(r"(?<![\w`-])make ([a-z][a-z0-9-]*)", text)) - {"it"}
    assert targets <= set(re.findall(r"^([a-z0-9-]+):", read("Makefile"), re.MULTILINE))
    commands = set(re.findall(r"^ *nested-reft ([a-z][a-z-]*)", text, re.MULTILINE))
    assert commands <= {path.stem.replace("_", "-") for path in (ROOT / "src/nested_reft/commands").glob("*.py")}
    extras = {extra for named in re.findall(r"\.\[([\w,-]+)\]", text) for extra in named.split(",")}
    assert extras <= set(project()["optional-dependencies"])
    known = {re.sub(r"<\w+>\.", "", key) for key in re.findall(r"^\| `([\w.<>]+)` \|", read("config/README.md"), re.M)}
    sections = "|".join({key.partition(".")[0] for key in known if "." in key})
    keys = set(re.findall(rf"^(?:{sections})\.[a-z_]+$", text, re.MULTILINE))
    assert {key for key in keys if key not in known and not key.endswith(".md")} == set()


def test_every_test_that_the_page_of_faults_names_exists(tracked: set[str]) -> None:
    """Each of its rows names a file of tests; `test_files_that_a_page_names_exist` looks for it."""
    table = read("docs/reliability.md").partition("|---")[2].partition("\n\n")[0]
    rows = [row.split(" | ")[-1] for row in table.splitlines()[1:]]
    assert len(rows) > 20
    for row in rows:
        files = re.findall(r"`(\S+)`", row)
        assert files
        assert all((ROOT / "tests/faults" / file).is_file() for file in files)


def test_every_table_and_page_of_the_report_is_explained() -> None:
    page = read("results/README.md")
    named = set(re.findall(r"(\w+)\.(?:md|csv)`", page)) | {
        name.rstrip("*") for name in re.findall(r"(\w+\*)\.md", page)
    }
    tables = {*TIDY_TABLES, *PRESENTATION_TABLES, "claims", "cells", "verdicts"}
    assert {name for name in tables if name not in named and not name.startswith("accuracy_")} == set()
    assert named <= {*tables, "accuracy_"}
    assert {name for name in REPORT_PAGES if f"{name}.html" not in page} == set()


def test_nobody_is_told_to_install_what_is_on_no_index() -> None:
    pages = [*PAGES, *(ROOT / "docs/api").glob("*.md"), *(ROOT / "examples").iterdir()]
    told = [
        page.name for page in pages if re.search(r"pip install [^`\n]*nested-reft", page.read_text(encoding="utf-8"))
    ]
    assert told == []


def test_the_map_has_every_room_of_the_package_once() -> None:
    package = ROOT / "src/nested_reft"
    rooms = [f"{path.parent.relative_to(package).as_posix()}/" for path in package.rglob("*/__init__.py")]
    modules = [path.name for path in package.glob("*.py")]
    section = read("CONTRIBUTING.md").partition("## Map of `src/nested_reft`\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)) == sorted(rooms + modules)


def test_every_import_is_one_that_the_map_allows() -> None:
    section = read("CONTRIBUTING.md").partition("## Map of `src/nested_reft`\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \| .* \| (.*) \|$", section, re.MULTILINE)
    below = {room: {name for name, _ in rows[place + 1 :]} for place, (room, _) in enumerate(rows)}
    graph = build_graph("nested_reft", exclude_type_checking_imports=True, cache_dir=None)
    for room, column in rows:
        allowed, _, by_name = (set(re.findall(r"`(\w+)`", part)) for part in column.partition("by name"))
        modules = {name for name in graph.modules if name.split(".")[1:2] == [room]}
        imported = {name for module in modules for name in graph.find_modules_directly_imported_by(module)}
        rooms = {name.split(".")[1] for name in imported if "." in name} - {room}
        assert rooms <= (below[room] if column == "every room below" else allowed), room
        assert allowed <= below[room], room
        sources = "\n".join(Path(found.origin).read_text(encoding="utf-8") for found in map(find_spec, modules))
        assert set(re.findall(r'import_module\(f?"nested_reft\.(\w+)', sources)) == by_name, room
