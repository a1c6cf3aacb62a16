"""Which source files a job's results depend on, computed from the imports of the code.

The graph has every import within this package, including those inside functions, but not those for type checkers only.
It does not see imports by name at run time, on purpose: the command line imports the module of one sub-command, and the
registry of figures the module of one figure, so each job depends on its own code only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import grimp

PACKAGE = "nested_reft"
ROOT = Path(__file__).parents[1]
# How a module names a file beside it that it runs as a script in a separate process, without importing it.
SCRIPT = re.compile(r'with_name\("(\w+\.py)"\)')


def source_files(*modules: str) -> list[Path]:
    """The files of the named modules (full names) and of all modules of this package that they import, sorted.

    Raises ValueError if a module does not exist.
    """
    return sorted({file for module in imported_modules(*modules) for file in _files(module)})


def source_digest(*modules: str) -> str:
    """The first 16 hex digits of the SHA-256 of these files: it changes whenever one of them does."""
    digest = hashlib.sha256()
    for file in source_files(*modules):
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def imported_modules(*modules: str) -> set[str]:
    """The named modules, and all that they import, directly or not; a package counts as a module."""
    graph, found = _graph(), set[str]()
    for module in modules:
        if module not in graph.modules:
            raise ValueError(f"there is no module {module}")
        found |= {module} | graph.find_upstream_modules(module)
    # Importing a module runs the __init__ of every package around it.
    return found | {package for module in found for package in _packages(module)}


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)


def _packages(module: str) -> Iterable[str]:
    parts = module.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts)))


def _files(module: str) -> Iterable[Path]:
    path = ROOT.joinpath(*module.split(".")[1:])
    if not path.is_dir():
        yield (file := path.with_suffix(".py"))
        yield from (file.with_name(script) for script in SCRIPT.findall(file.read_text(encoding="utf-8")))
        return
    yield path / "__init__.py"
    yield from path.glob("templates/*.html")  # read by the package's modules
