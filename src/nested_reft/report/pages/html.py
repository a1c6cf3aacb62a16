"""Pages for the report: self-contained HTML files that no text of a model or data set can break.

Templates escape whatever they show, and forbid the browser to run or fetch anything.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

LONGEST_ANSWER = 600  # characters of a completion that a page shows


def visible(text: str) -> str:
    """`text` with control and direction characters as their code points: they would hide or reorder what follows."""
    return "".join(
        f"[U+{ord(character):04X}]"
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn") and character != "\n"
        else character
        for character in text
    )


def shortened(text: str) -> str:
    """The beginning of a long text, and how long it is."""
    if len(text) <= LONGEST_ANSWER:
        return text
    return f"{text[:LONGEST_ANSWER]} … ({len(text):,} characters, all in tables/samples.csv)"


_TEMPLATES = PackageLoader("nested_reft.report.pages")
_ENVIRONMENT = Environment(
    loader=_TEMPLATES, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_ENVIRONMENT.filters |= {"visible": visible, "shortened": shortened}
_ENVIRONMENT.globals["zip"] = zip


def write_html(path: Path, template: str, title: str, **content: Any) -> None:
    """Write a page from a template of this package."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_ENVIRONMENT.get_template(f"{template}.html").render(title=title, **content), encoding="utf-8")
