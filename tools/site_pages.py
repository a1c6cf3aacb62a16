"""Hooks of mkdocs that make pages whole by themselves: formulas as MathML, and tables that a phone can stack.

Formulas are rendered when the site is built, so a page needs no script for them, from a server or from disk. Each cell
of a wide table gets the heading of its column as `data-label`, which `docs/assets/site.css` shows on a narrow screen.
"""

from __future__ import annotations

import html
import re
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.treeprocessors import Treeprocessor
from mkdocs.config.defaults import MkDocsConfig

# What pymdownx.arithmatex writes in its generic mode.
FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\s*\\[(\[](?P<tex>.*?)\\[)\]]\s*</(?P=tag)>', re.DOTALL)
NARROW = 3  # a table of so many columns fits a phone


class LabelledTables(Treeprocessor):
    """Puts the heading of its column on each cell of a table that is wider than a phone."""

    def run(self, root: Element) -> None:
        """Change the tree in place."""
        for table in root.iter("table"):
            # Text only: what a style sheet shows has no formulas.
            labels = [re.sub(r"\\\(.*?\\\)", "", "".join(heading.itertext())).strip() for heading in table.iter("th")]
            if len(labels) <= NARROW:
                continue
            table.set("data-wide", "")
            for row in table.iter("tr"):
                for label, cell in zip(labels, row.findall("td"), strict=False):
                    cell.set("data-label", label)


class LabelledTablesExtension(Extension):
    """The extension of Markdown, after inline text, which is in the headings, has become elements."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Register it."""
        md.treeprocessors.register(LabelledTables(md), "labelled-tables", 5)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the extension to those of mkdocs.yml."""
    config.markdown_extensions.append(LabelledTablesExtension())
    return config


def on_page_content(content: str, **_: object) -> str:
    """The page with its formulas as MathML."""
    return FORMULA.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match["tag"] == "div" else "inline"
    return convert(html.unescape(match["tex"]).strip(), display=display)
