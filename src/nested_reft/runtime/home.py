"""What the account lacks in a container: a home directory that can be written, for caches, and a name of the user."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

from nested_reft.runtime.lines import write_line

CACHE = "XDG_CACHE_HOME"  # Hugging Face's caches are below it too, unless HF_HOME says otherwise
MATPLOTLIB = "MPLCONFIGDIR"


def use_writable_caches() -> None:
    """Let the caches that this process and its children would keep in HOME go to a temporary folder if HOME cannot be
    written. Variables that are set already stay as they are.
    """
    if _home_is_writable():
        return
    if CACHE not in os.environ:
        folder = Path(tempfile.gettempdir()) / f"nested-reft-cache-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        os.environ[CACHE] = str(folder)
        write_line(f"HOME cannot be written: caches go to {folder}; set {CACHE} to keep them elsewhere")
    os.environ.setdefault(MATPLOTLIB, str(Path(os.environ[CACHE]) / "matplotlib"))


def name_user() -> None:
    """Name a user that the machine does not know (`docker run --user 12345`) by the number, for who asks for a name."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # the latter since Python 3.13
        os.environ["LOGNAME"] = str(os.getuid())


def _home_is_writable() -> bool:
    """Whether files can be made in ~/.cache, which is made if it does not exist, as every user of it would do."""
    try:
        folder = Path.home() / ".cache"
        folder.mkdir(parents=True, exist_ok=True)
    except (RuntimeError, OSError):  # the former without HOME and a name of the user, as in a container
        return False
    return os.access(folder, os.W_OK | os.X_OK)
