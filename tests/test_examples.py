"""The notebook runs from the top, and what is kept of its outputs is small and whole."""

from __future__ import annotations

import re
from itertools import groupby

import nbformat
import pytest
from nbformat import NotebookNode
from run_notebook import NOTEBOOK, executed

import nested_reft


def outputs(notebook: NotebookNode) -> list[list[str]]:
    """What kinds of output each code cell has: `image/png` for an image, else the kind of message.

    A kernel sends what a cell prints in as many pieces as there is time between its lines: they count as one.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kinds = [
        ["image/png" if "image/png" in output.get("data", {}) else output.output_type for output in cell.outputs]
        for cell in cells
    ]
    return [[kind for kind, _ in groupby(of_cell)] for of_cell in kinds]


def test_the_kept_notebook_is_small_and_has_its_one_plot() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) == 12
    assert NOTEBOOK.stat().st_size < 200_000
    assert [kind for kinds in outputs(notebook) for kind in kinds].count("image/png") == 1
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "its outputs are not those of one run; call `make notebook`"


def test_it_uses_the_public_names_only_and_its_links_lead_somewhere() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert re.findall(r"^.*nested_reft.*$", code, re.MULTILINE) == ["import nested_reft as nr"]
    assert set(re.findall(r"\bnr\.(\w+)", code)) <= set(nested_reft.__all__)
    links = re.findall(r"\]\((?!https?://)([^)#]+)", "\n".join(cell.source for cell in cells))
    assert links
    assert [link for link in links if not (NOTEBOOK.parent / link).exists()] == []


@pytest.mark.slow
def test_it_runs_from_the_top() -> None:
    assert outputs(executed()) == outputs(nbformat.read(NOTEBOOK, as_version=4))  # an error would raise
