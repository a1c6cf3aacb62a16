"""The site of `make docs`: it is built and read without a network, has every page, and its links hold."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mkdocs.config import load_config
from site_links import OUTSIDE, rewritten

import nested_reft

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BUILD = """
import socket, sys
from mkdocs.__main__ import cli

def refuse(*_):
    raise OSError("the build asked for the network")

socket.socket.connect = refuse
cli(["build", "--strict", "--quiet", "--site-dir", sys.argv[1]])
"""


def pages(nav: Any) -> list[str]:
    """All pages of a navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in pages(entry)]


def objects(page: str) -> list[str]:
    """What a page of the API reference documents."""
    return re.findall(r"^::: (\S+)$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, "-c", BUILD, folder], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_in_the_navigation_once() -> None:
    nav = pages(load_config(str(ROOT / "mkdocs.yml"))["nav"])
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if "reference" not in path.parts}
    assert len(nav) == len(set(nav))
    assert set(nav) == written | set(OUTSIDE) | {"reference/laptop/tables/claims.md"}


def test_the_pages_of_the_api_document_the_public_names_and_the_modules_of_two_rooms() -> None:
    assert sorted(objects("api/index.md")) == [f"nested_reft.{name}" for name in nested_reft.__all__]
    for room in ("core", "engine"):
        modules = {path.stem for path in (ROOT / "src/nested_reft" / room).glob("*.py")} - {"__init__"}
        assert set(objects(f"api/{room}.md")) == {f"nested_reft.{room}.{module}" for module in modules}


def test_the_built_page_has_signature_arguments_and_errors_of_each_name(site: Path) -> None:
    page = (site / "api/index.html").read_text(encoding="utf-8")
    starts = [page.index(f'id="{name}"') for name in objects("api/index.md")]
    assert starts == sorted(starts)
    for start, end in zip(starts, [*starts[1:], len(page)], strict=True):
        assert "doc-signature" in page[start:end]
        assert "Parameters:" in page[start:end]


def test_links_out_of_the_docs_are_plain_text_on_a_site_without_repository(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    assert "examples/nested_reft.ipynb" in home
    assert 'href="../' not in home
    assert 'href="configuration.html"' in home
    assert (site / "configuration.html").is_file()


def test_a_page_loads_nothing_from_elsewhere_and_its_links_name_files(site: Path) -> None:
    """So that it works from disk, where a link to a folder shows a list of files."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="https?:', text) == [], page
        if page.name == "404.html":  # served for any path, so its links are from the root
            continue
        links = re.findall(r'<(?:a|img|script|link)[^>]*(?:href|src)="([^"#?]+)', text)
        own = [link for link in links if not re.match(r"(?:https?|mailto|data):", link)]
        assert own
        assert [link for link in own if not (page.parent / link).is_file()] == [], page


def test_search_needs_no_server(site: Path) -> None:
    index = (site / "search/search_index.js").read_text(encoding="utf-8")
    assert index.startswith("var __index = {")
    assert "install" in index
    assert "iframe-worker.js" in (site / "index.html").read_text(encoding="utf-8")


def test_formulas_are_rendered_when_the_site_is_built(site: Path) -> None:
    text = (site / "method.html").read_text(encoding="utf-8")
    assert text.count("<math") > 40
    assert 'display="block"' in text
    for page in site.rglob("*.html"):
        assert "arithmatex" not in page.read_text(encoding="utf-8"), page


def test_a_cell_of_a_wide_table_has_the_heading_of_its_column(site: Path) -> None:
    rows = re.findall(r"<tr>(.*?)</tr>", (site / "method.html").read_text(encoding="utf-8"), re.DOTALL)[1:]
    labels = [re.findall(r'<td data-label="(.*?)"', row) for row in rows]
    assert labels == [["name", "weight", "bounded", "from"]] * 10


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("[a](theory.md)", "[a](theory.md)"),
        ("[a](theory.md#top)", "[a](theory.md#top)"),
        ("[a](../src/nested_reft/core/loss.py)", "[a](https://host/us/it/blob/main/src/nested_reft/core/loss.py)"),
        ("[a](../README.md#x)", "[a](https://host/us/it/blob/main/README.md#x)"),
        ("[a](../config/README.md#training)", "[a](configuration.md#training)"),
        ("[a](../no/such/file.py)", "[a](../no/such/file.py)"),  # mkdocs will say so
        ("[a](https://host/b.md), ![a](reference/b.png)", "[a](https://host/b.md), ![a](reference/b.png)"),
    ],
)
def test_a_link_is_rewritten_for_the_site(markdown: str, expected: str) -> None:
    assert rewritten(markdown, DOCS / "method.md", "method.md", "https://host/us/it/") == expected


def test_a_link_of_a_page_from_outside_is_seen_from_its_source() -> None:
    source = ROOT / "config/README.md"
    assert rewritten("[a](../docs/choices.md)", source, "configuration.md", None) == "[a](choices.md)"
    assert rewritten("[a](config.yaml), [b](#x)", source, "configuration.md", None) == "a, [b](#x)"
