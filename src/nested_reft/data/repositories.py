"""A repository's files: from the Hugging Face hub, from its cache, or from a data mirror.

A mirror is a folder in the hub's layout, for machines without a network. The errors name a remedy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants, errors

from nested_reft.data.records import DataError

MIRROR_VARIABLE = "NESTED_REFT_DATA_MIRROR"
COMMIT = r"[0-9a-f]{40}"
# Seconds that the hub may take to say which commit a revision names.
ANSWER_SECONDS = 15.0


def mirror_from_environment() -> Path | None:
    """The data mirror's folder if NESTED_REFT_DATA_MIRROR is set; DataError if it does not name a folder."""
    value = os.environ.get(MIRROR_VARIABLE)
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise DataError(f"{MIRROR_VARIABLE}={value}: no such folder; correct it, or unset it to use the hub")
    return folder


def origin(folder: Path, files: dict[str, Any], revision: str, resolved: str | None) -> dict[str, Any]:
    """What a record says of `files` in `folder`, asked for as `revision`: from the hub if it resolved the revision to
    a commit, else from a mirror.
    """
    return {
        "requested_revision": revision,
        "resolved_revision": resolved or _mirrored_commit(folder, files, revision),
        "origin": "hub" if resolved else "mirror",
        "files": files,
    }


def _mirrored_commit(folder: Path, files: dict[str, Any], revision: str) -> str | None:
    """The commit that `hf download --local-dir` noted next to the files it put into `folder`; None if it did not.

    Also None if they are of different commits, or one was put there in another way or changed since. Raises DataError
    if `revision` is another commit.
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


def snapshot(kind: str, repo: str, revision: str, patterns: Sequence[str]) -> tuple[Path, str]:
    """The folder in the hub's cache that holds the files matching `patterns`, and its commit hash.

    `kind` is dataset or model. With HF_HUB_OFFLINE set, only the cache is used. DataError names the remedy.
    """
    hub, found = huggingface_hub.HfApi(), repo
    try:
        if not constants.HF_HUB_OFFLINE:
            # Asked first, because it fails at once without a network; the download itself would retry for a long time
            # and then fall back on whatever commit of a branch is in the cache.
            found = hub.repo_info(repo, revision=revision, repo_type=kind, timeout=ANSWER_SECONDS).id
        if found != repo:  # the hub answers for the old name of a repository that was renamed
            raise DataError(f"{kind} {repo}: has moved; write `repo: {found}`")
        folder = Path(hub.snapshot_download(repo, repo_type=kind, revision=revision, allow_patterns=list(patterns)))
    except DataError:
        raise
    # httpx, urllib3, ssl and the hub have no common error; whichever it is, the remedy is what the user needs.
    except Exception as error:
        raise hub_error(kind, repo, revision, error) from error
    return folder, folder.name


# What to do by the status with which the hub refuses. Without a token of its own error class, 401 is a bad token.
_REMEDIES = {
    401: "the hub refuses your token, which may have expired: run `hf auth login`, or unset HF_TOKEN",
    403: "your token does not permit it: give it read access at https://huggingface.co/settings/tokens",
    404: "correct `repo`; if it is private, run `hf auth login`",
    429: "the hub has had too many requests: wait some minutes; with `hf auth login` it allows more",
}


def hub_error(kind: str, repo: str, revision: str, error: Exception) -> DataError:
    """The error for the user: what was asked for, what went wrong, and the remedy."""
    # The client falls back on its cache, and keeps as the cause why the hub did not answer.
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"
        remedy = f"accept its terms at {page} and run `hf auth login`"
    elif isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        remedy = _REMEDIES[404]
    elif isinstance(error, errors.RevisionNotFoundError):
        remedy = "correct `revision`: a branch, a tag or a full commit hash"
    elif status is not None:
        remedy = _REMEDIES.get(status, f"the hub answers with an error of its own ({status}): try again later")
    elif isinstance(error, OSError) and error.filename is not None:
        remedy = "make room there, or permit writing"
    else:
        remedy = f"check the network, or set {MIRROR_VARIABLE} to a folder that holds it, or "
        if constants.HF_HUB_OFFLINE:
            command = f"hf download --repo-type {kind} {repo} --revision {revision}"
            remedy += f"unset HF_HUB_OFFLINE, or fill the hub's cache while online: `{command}`"
        else:
            remedy += "HF_HUB_OFFLINE=1 if the hub's cache does"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].strip()
    return DataError(f"{kind} {repo}, revision {revision}: cannot be fetched from the hub ({reason}); {remedy}")
