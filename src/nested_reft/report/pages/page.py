"""Tables of texts as pages for people: in Markdown, in HTML for the report, and in LaTeX to be \\input into a paper.

All have the same tables and notes. The LaTeX is one float per table and needs `booktabs`, `graphicx` and `xcolor` with
its option `table`, nothing else: whatever is not ASCII is written as a command.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nested_reft.report.pages.html import write_html
from nested_reft.report.tidy import write_table

# A table with more does not fit on a page with its notes, and continues in the next float.
MOST_LINES = 30
# A column with longer texts is set as paragraphs.
LONGEST_LINE = 40
# In pandas' LaTeX dialect of CSS. The colours are assumed to be the paper's; weight and slant tell them apart in grey.
LARGEST, SMALLEST = "cellcolor:{green!25}; textbf:--rwrap", "cellcolor:{red!25}; textit:--rwrap"
LEGEND = "Largest value green and bold, smallest red and italic"

# TeX's special characters, and the non-ASCII characters in our texts.
_TEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"}
    | {"±": r"$\pm$", "≤": r"$\leq$", "×": r"$\times$", "‖": r"$\|$", "π": r"$\pi$", "−": "$-$"}
)
_FLOAT = r"""\begin{table}
\centering
\caption{%s}
\label{tab:%s}
\par\smallskip
%s\begin{minipage}{\linewidth}
\footnotesize
%s
\end{minipage}
\end{table}
"""
# Scaled down only if it is wider than the text.
_TABULAR = r"""\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%%
%s}
\par\smallskip
"""


@dataclass(frozen=True)
class Page:
    """Tables of texts under their headings ("" if there is one table), and the notes for all of them.

    In LaTeX the largest value of a table in the columns `marked` is green and the smallest red.
    """

    title: str
    tables: tuple[tuple[str, pd.DataFrame], ...]
    notes: str
    marked: tuple[str, ...] = ()


def write_page(root: Path, name: str, table: pd.DataFrame, page: Page) -> None:
    """Write `tables/{name}.csv`, `.md`, `.tex` and `.html`."""
    write_table(root, name, table)
    write_markdown(root, name, page)
    write_latex(root, name, page)
    write_table_html(root / "tables" / f"{name}.html", page)


def write_table_html(path: Path, page: Page) -> None:
    """Write the page as HTML that holds all it needs."""
    write_html(path, "table", page.title, page=page)


def write_markdown(root: Path, name: str, page: Page) -> None:
    """Write `tables/{name}.md`."""
    blocks = [f"# {page.title}"]
    for heading, table in page.tables:
        blocks += [f"## {heading}"] if heading else []
        blocks.append(markdown(table))
    (root / "tables" / f"{name}.md").write_text("\n\n".join([*blocks, page.notes]) + "\n", encoding="utf-8")


def markdown(table: pd.DataFrame) -> str:
    """A table of texts as Markdown, unchanged: no text is taken for a number and rounded."""
    return str(table.to_markdown(index=False, disable_numparse=True))


def write_latex(root: Path, name: str, page: Page) -> None:
    """Write `tables/{name}.tex`."""
    text = "% \\usepackage{booktabs}\n% \\usepackage{graphicx}\n% \\usepackage[table]{xcolor}\n" + latex(page, name)
    (root / "tables" / f"{name}.tex").write_text(text, encoding="utf-8")


def latex(page: Page, name: str) -> str:
    """The page as floats labelled `tab:{name}`, or `tab:{name}-1`, ...; if there is no table, one for the notes."""
    legend = LEGEND if page.marked else ""
    floats: list[tuple[tuple[str, ...], str]] = []
    for heading, table in page.tables:
        styles = extremes(table, page.marked)
        for part, rows in _parts(table):
            floats.append(((heading, page.title, legend, part), _TABULAR % tabular(rows, styles)))
    floats = floats or [((page.title,), "")]
    labels = [name] if len(floats) == 1 else [f"{name}-{number}" for number in range(1, len(floats) + 1)]
    return "\n".join(
        _FLOAT % (tex(". ".join(filter(None, caption)) + "."), label, body, tex(page.notes))
        for (caption, body), label in zip(floats, labels, strict=True)
    )


def _parts(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The table in parts of at most `MOST_LINES` lines, each with its number for the caption."""
    lines = 1 + table.map(len).max(axis=1) // LONGEST_LINE
    parts = [rows for _, rows in table.groupby((lines.cumsum() - 1) // MOST_LINES)]
    return [
        (f"Part {number} of {len(parts)}" if len(parts) > 1 else "", rows) for number, rows in enumerate(parts, start=1)
    ]


def tabular(table: pd.DataFrame, styles: pd.DataFrame) -> str:
    """The table with the rules of booktabs; `styles` of its cells, and perhaps of others."""
    styler = table.style.hide(axis="index").format(tex).format_index(_header, axis=1)
    styler = styler.apply(lambda shown: styles.loc[shown.index, shown.columns], axis=None)
    formats = "".join(
        r">{\raggedright\arraybackslash}p{.5\linewidth}" if column.str.len().max() > LONGEST_LINE else "l"
        for _, column in table.items()
    )
    return styler.to_latex(hrules=True, column_format=formats)


def extremes(table: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """The styles of the cells with the largest and the smallest value, as printed, of all `columns` together.

    A value is the number that a text begins with; what was not run has none. Equal values are marked alike; if all are
    equal, none is marked.
    """
    styles = pd.DataFrame("", index=table.index, columns=table.columns)
    if not columns:
        return styles
    values = table[list(columns)].apply(
        lambda column: column.str.extract(r"^([-+]?[\d.]+)", expand=False).astype(float)
    )
    largest, smallest = values.max(axis=None), values.min(axis=None)
    if largest > smallest:
        styles[list(columns)] = (
            styles[list(columns)].mask(values == largest, LARGEST).mask(values == smallest, SMALLEST)
        )
    return styles


def tex(text: object) -> str:
    """A text in LaTeX: escaped, with minus signs before numbers and `code` in typewriter."""
    with_minus = re.sub(r"(?<![\w.])-(?=\d)", "−", str(text))
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", with_minus.translate(_TEX))


def _header(name: object) -> str:
    """A column's name, one word per line, so that the column is as narrow as its cells."""
    lines = tex(name).replace(" ", r"\\")
    return rf"\shortstack[l]{{{lines}}}"
