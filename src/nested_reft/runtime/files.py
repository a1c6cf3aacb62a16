"""Writing files: checking for free space first, and replacing files whole, so that a kill never leaves half of one."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nested_reft.runtime.errors import UserError


class StorageError(UserError, RuntimeError):
    """No space for a file, or no permission to write it; the message names the path and the space needed."""


def check_space(folder: Path, size: int, what: str) -> None:
    """Raise StorageError if the disk of `folder` has less than `size` bytes free, before anything is written."""
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < size:
        raise StorageError(
            f"{folder}: {what} needs {size / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free; make room and run it "
            "again: finished work stays valid"
        )


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """`write` a temporary file next to `path`, flush it to disk, rename it: a kill leaves the old file or the new."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    """Write JSON, indented so that people can read it; None (no indent) for large tables of numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable; some network file systems do not support this, and need not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
