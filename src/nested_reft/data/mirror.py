"""The data mirror: a folder in the hub's layout, for machines without a network."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from nested_reft.data.records import DataError

MIRROR_VARIABLE = "NESTED_REFT_DATA_MIRROR"
COMMIT = r"[0-9a-f]{40}"


def mirror_from_environment() -> Path | None:
    """The data mirror's folder if NESTED_REFT_DATA_MIRROR is set; DataError if it does not name a folder."""
    value = os.environ.get(MIRROR_VARIABLE)
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise DataError(f"{MIRROR_VARIABLE}={value}: no such folder; correct it, or unset it to use the hub")
    return folder


def mirrored_commit(folder: Path, files: Iterable[str], revision: str) -> str | None:
    """The commit that `hf download --local-dir` noted next to the files it put into `folder`; None if it did not.

    `files` are relative to `folder`. Also None if they are of different commits, or one was put there in another way or
    changed since. Raises DataError if `revision` is another commit.
    """
    commits = {_noted_commit(folder, file) for file in files}
    commit = commits.pop() if len(commits) == 1 else None
    if commit and re.fullmatch(COMMIT, revision) and commit != revision:
        raise DataError(
            f"{folder}: holds commit {commit}, and the configuration asks for revision {revision}; correct `revision`, "
            f"or fetch it with `hf download --revision {revision} --local-dir {folder}`"
        )
    return commit


def _noted_commit(folder: Path, file: str) -> str | None:
    # Three lines: commit, ETag, and when the file was complete.
    try:
        commit, _, time = (folder / f".cache/huggingface/download/{file}.metadata").read_text("utf-8").split()
        unchanged = (folder / file).stat().st_mtime <= float(time) + 1
    except (OSError, ValueError):
        return None
    return commit if unchanged and re.fullmatch(COMMIT, commit) else None
