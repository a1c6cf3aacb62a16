"""Asks the Hugging Face hub (or its cache) for a repository's files; the errors name a remedy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors

from nested_reft.tasks.mirror import MIRROR_VARIABLE
from nested_reft.tasks.records import DataError

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


def hub_error(kind: str, repo: str, revision: str, error: Exception) -> DataError:
    """The error for the user: what was asked for, what went wrong, and the remedy."""
    if isinstance(error, errors.GatedRepoError):
        page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"
        remedy = f"accept its terms at {page} and run `hf auth login`"
    elif isinstance(error, errors.RepositoryNotFoundError):
        remedy = "correct `repo`; if it is private, run `hf auth login`"
    elif isinstance(error, errors.RevisionNotFoundError):
        remedy = "correct `revision`: a branch, a tag or a full commit hash"
    else:
        remedy = f"check the network, or set {MIRROR_VARIABLE} to a folder that holds it, or "
        if constants.HF_HUB_OFFLINE:
            command = f"hf download --repo-type {kind} {repo} --revision {revision}"
            remedy += f"unset HF_HUB_OFFLINE, or fill the hub's cache while online: `{command}`"
        else:
            remedy += "HF_HUB_OFFLINE=1 if the hub's cache does"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].strip()
    return DataError(f"{kind} {repo}, revision {revision}: cannot be fetched from the hub ({reason}); {remedy}")
