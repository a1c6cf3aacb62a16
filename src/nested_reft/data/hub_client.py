"""Asks the Hugging Face hub (or its cache) for a repository's files; the errors name a remedy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors

from nested_reft.data.mirror import MIRROR_VARIABLE
from nested_reft.data.records import DataError

# Seconds that the hub may take to say which commit a revision names.
ANSWER_SECONDS = 15.0


def snapshot(kind: str, repo: str, revision: str, patterns: Sequence[str]) -> tuple[Path, str]:
    """The folder in the hub's cache that holds the files matching `patterns`, and its commit hash.

    `kind` is dataset or model. With HF_HUB_OFFLINE set, only the cache is used. DataError names the remedy.
    """
    # Asked first, because it fails at once without a network; the download itself would retry for a long time and then
    # fall back on whatever commit of a branch is in the cache.
    if not constants.HF_HUB_OFFLINE:
        _check_there(kind, repo, revision)
    try:
        folder = huggingface_hub.snapshot_download(
            repo, repo_type=kind, revision=revision, allow_patterns=list(patterns)
        )
    except Exception as error:  # see _check_there
        raise hub_error(kind, repo, revision, error) from error
    return Path(folder), Path(folder).name


def _check_there(kind: str, repo: str, revision: str) -> None:
    try:
        info = huggingface_hub.HfApi().repo_info(repo, revision=revision, repo_type=kind, timeout=ANSWER_SECONDS)
    # httpx, urllib3, ssl and the hub have no common error; whichever it is, the remedy is what the user needs.
    except Exception as error:
        raise hub_error(kind, repo, revision, error) from error
    if info.id != repo:  # the hub answers for the old name of a repository that was renamed
        raise DataError(f"{kind} {repo}: has moved; write `repo: {info.id}`")


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
    elif status in _REMEDIES:
        remedy = _REMEDIES[status]
    elif status is not None:
        remedy = f"the hub answers with an error of its own ({status}): try again later"
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
