"""Runs examples/nested_reft.ipynb from the top and keeps its outputs (`make notebook`).

Outputs are kept for readers who do not run it. Times of execution are not, so that only what a cell shows can differ.
"""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parents[1] / "examples/nested_reft.ipynb"


def executed(path: Path = NOTEBOOK) -> NotebookNode:
    """The notebook with the outputs of a new kernel. Raises CellExecutionError if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    # What tqdm says if ipywidgets is not installed; no progress bar is shown.
    environment = os.environ | {"PYTHONWARNINGS": "ignore:IProgress not found"}
    return NotebookClient(notebook, timeout=600, record_timing=False).execute(env=environment)


if __name__ == "__main__":
    notebook = executed()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, NOTEBOOK)
