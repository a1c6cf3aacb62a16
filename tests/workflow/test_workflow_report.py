"""Snakemake's report of the tiny experiment, as a file and in a real browser, in a wide and in a narrow window.

Needs Chromium and `pip install -e '.[report-test]'`. REPORT_SCREENSHOTS names a folder for the screenshots.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from workflow_harness import Finished

from nested_reft.report.registry import CLAIMS, FIGURES, PAGES, PRESENTATION_TABLES, RUNS, TABLES

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WINDOWS = {"wide": (1400, 900), "narrow": (480, 800)}
CATEGORIES = {entry.category for entry in FIGURES.values()} | {CLAIMS, TABLES, RUNS}
# What the tiny experiment does not measure is no page.
NOT_ASKED = {"strategies", "layer_choice", "nestability", "nestability_by_size", "behaviours"}
READABLE = 640  # pixels for a figure whose letters are made for 7 inches


@pytest.fixture(scope="module")
def report(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    done = finished.pipeline.report(path, finished.config)
    assert done.code == 0, done.output
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[report-test]'")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no Chromium is installed: none of {', '.join(BROWSERS)}")
    with api.sync_playwright() as playwright:
        # Root in a container has no sandbox, and this page is our own.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=WINDOWS)
def page(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Any]:
    """The opened report in a window; whatever the browser complained about fails the test."""
    width, height = WINDOWS[request.param]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(300_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else complaints.append(asked.url))
    page.goto(report.as_uri())
    page.window = request.param
    yield page
    page.close()
    assert complaints == []


def screenshot(page: Any, tmp_path: Path, name: str) -> None:
    folder = Path(os.environ.get("REPORT_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{page.window}-{name}.png"
    page.screenshot(path=path)
    assert path.stat().st_size > 5000


def open_category(page: Any, category: str) -> int:
    """Go back to the menu and into a category; how many results it lists."""
    page.locator("nav nav a").first.click()
    page.locator("nav").get_by_text(category, exact=True).click()
    rows = page.locator("nav tbody tr")
    rows.first.wait_for()
    return int(rows.count())


def test_the_report_holds_all_it_needs(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    for name in FIGURES:
        assert bool(re.search(rf"filename={name}\.png;base64,", text)) == (name not in NOT_ASKED), name
    for name in (*PRESENTATION_TABLES, "claims", *PAGES):
        assert bool(re.search(rf"filename={name}\.html;base64,", text)) == (name not in NOT_ASKED), name
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.?https?:", text)
    # Beside a result are its job's parameters: readable, not the settings as JSON.
    assert "root=results/tiny" in text
    assert "settings={" not in text


def test_the_introduction_states_the_verdicts_first(page: Any, tmp_path: Path) -> None:
    title = page.get_by_role("heading", name="Nested-ReFT, replicated")
    title.wait_for()
    assert title.bounding_box()["y"] >= 0  # its top can be seen
    cells = page.locator(".prose table tbody tr td:first-child").all_inner_texts()
    assert cells == [f"C{number}" for number in range(1, 7)]
    assert page.locator(".prose .system-message").count() == 0  # docutils found nothing to complain about
    screenshot(page, tmp_path, "introduction")
    # Its links lead to results.
    for name in ("Accuracy against speed-up", "Sample completions"):
        page.get_by_role("link", name=name).click()
        page.locator("nav").get_by_text("Description").wait_for()
        page.locator("nav nav a").first.click()
    page.locator(".prose").get_by_role("link", name=CLAIMS).click()
    page.locator("nav tbody").get_by_text("claims and verdicts").wait_for()


def test_every_category_opens_and_every_result_shows(page: Any, tmp_path: Path) -> None:
    listed = 0
    for category in sorted(CATEGORIES):
        for row in range(open_category(page, category)):
            page.locator("nav tbody tr").nth(row).locator("a").first.click()
            if category in (CLAIMS, TABLES, RUNS):
                heading = page.frame_locator("iframe").locator("h1")
                heading.wait_for()
                assert heading.inner_text()
            else:
                assert_figure_is_readable(page)
            listed += 1
        screenshot(page, tmp_path, category.replace(" ", "-"))
    assert listed == len({*FIGURES, *PRESENTATION_TABLES} - NOT_ASKED) + 1 + len(PAGES)


def assert_figure_is_readable(page: Any) -> None:
    image = page.locator("#app img[src^='data:image/png']")
    image.wait_for()
    page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())
    assert image.bounding_box()["width"] >= READABLE
    # All of it can be scrolled to: nothing lies before the start of what scrolls.
    before = """image => {
        const view = image.closest('.overflow-auto'); view.scrollTo(0, 0);
        const [inner, outer] = [image.getBoundingClientRect(), view.getBoundingClientRect()];
        return [inner.left - outer.left, inner.top - outer.top];
    }"""
    assert min(image.evaluate(before)) >= 0


def test_a_figures_caption_says_what_to_see(page: Any) -> None:
    open_category(page, "2 Speed")
    page.locator("nav tbody tr").first.locator("a").nth(1).click()
    page.locator("nav").get_by_text("Description").wait_for()
    assert "Rollout speed-up" in page.locator("nav .prose").inner_text()


def test_samples_are_marked_right_or_wrong(page: Any, tmp_path: Path) -> None:
    open_category(page, RUNS)
    page.locator("nav tbody tr", has_text="samples").locator("a").first.click()
    frame = page.frame_locator("iframe")
    frame.locator("h1").wait_for()
    marks = frame.locator(".mark").all_inner_texts()
    assert len(marks) == 2 * 3 * 4 * 2  # benchmarks, problems, models, greedy and sampled
    assert {mark.split()[0] for mark in marks} <= {"✓", "✗"}
    assert all(prompt.endswith(" answer :") for prompt in frame.locator(".prompt").all_inner_texts())
    screenshot(page, tmp_path, "samples")
