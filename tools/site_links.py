"""Hooks of mkdocs: pages from outside docs/, and links of pages to other files of the repository.

Pages are read in the repository too, so a link such as `../src/nested_reft/core/loss.py` is relative to it. On the site
it leads to the repository if `repo_url` is set in mkdocs.yml, and is plain text until then. A link to a file that does
not exist is left as it is: the strict build of mkdocs fails at it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Pages whose text is elsewhere in the repository: page, source.
OUTSIDE = {"configuration.md": "config/README.md"}
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<path>[\w./-]+)(?P<anchor>#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside."""
    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with links that hold on the site; a page of tables has the width of the contents too."""
    if page.file.src_uri.startswith("reference/"):
        page.meta["hide"] = ["toc"]
    source = ROOT / OUTSIDE.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return rewritten(markdown, source, page.file.src_uri, config.repo_url)


def rewritten(markdown: str, source: Path, page: str, repo_url: str | None) -> str:
    """The text of the file `source` with links for the page `page` of the site."""
    docs = ROOT / "docs"
    pages = {ROOT / path: docs / uri for uri, path in OUTSIDE.items()}

    def link(match: re.Match[str]) -> str:
        text, anchor = match["text"], match["anchor"] or ""
        target = Path(os.path.normpath(source.parent / match["path"]))
        if not target.exists():
            return match[0]
        target = pages.get(target, target)
        if target.is_relative_to(docs):
            return f"[{text}]({os.path.relpath(target, (docs / page).parent)}{anchor})"
        if not repo_url:
            return text
        return f"[{text}]({repo_url.rstrip('/')}/blob/main/{target.relative_to(ROOT).as_posix()}{anchor})"

    return LINK.sub(link, markdown)
