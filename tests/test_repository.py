"""What surrounds the code agrees with it: citation, formatters, CI, issue forms, and the paths in the pages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.specifiers import SpecifierSet

import nested_reft

ROOT = Path(__file__).parents[1]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
PAGES = [
    ROOT / name
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "config/README.md", "results/README.md")
] + sorted((ROOT / "docs").glob("*.md"))  # fmt: skip


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
    assert paper["year"] == 2000 + int(number[:2])


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


def test_contributors_are_sent_to_files_and_targets_that_exist() -> None:
    page = read("CONTRIBUTING.md")
    paths = re.findall(r"`((?:src|tests|docs|config|workflow|results|\.ci)/[^`*]*)`", page)
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []
    targets = set(re.findall(r"\bmake ([a-z-]+)", page))
    assert {"env", "test", "lint", "config-docs"} <= targets
    known = re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)
    assert targets <= set(known)


def test_the_map_has_every_room_of_the_package_once() -> None:
    package = ROOT / "src/nested_reft"
    rooms = [f"{path.parent.relative_to(package).as_posix()}/" for path in package.rglob("*/__init__.py")]
    modules = [path.name for path in package.glob("*.py")]
    section = read("CONTRIBUTING.md").partition("## Map of `src/nested_reft`\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)) == sorted(rooms + modules)
