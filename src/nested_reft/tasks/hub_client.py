"""What the Hugging Face hub is asked before a download, and its errors in words that name a remedy."""

from __future__ import annotations

import re

import huggingface_hub
from huggingface_hub import constants, errors

from nested_reft.tasks.mirror import MIRROR_VARIABLE
from nested_reft.tasks.records import DataError

# Seconds that the hub may take to say which commit a revision is.
ANSWER_SECONDS = 15.0


def resolve_revision(kind: str, repo: str, revision: str) -> str | None:
    """The commit hash of a hub revision, `kind` being dataset or model; None where HF_HUB_OFFLINE leaves it unknown.

    Asked first, because it fails at once where there is no network; the download itself would retry for long.
    """
    if constants.HF_HUB_OFFLINE:
        return revision if re.fullmatch(r"[0-9a-f]{40}", revision) else None
    try:
        info = huggingface_hub.HfApi().repo_info(repo, revision=revision, repo_type=kind, timeout=ANSWER_SECONDS)
    # httpx, urllib3, ssl and the hub have no common error; whichever it is, the remedy is what the user needs.
    except Exception as error:
        raise hub_error(kind, repo, revision, error) from error
    return info.sha


def hub_error(kind: str, repo: str, revision: str, error: Exception) -> DataError:
    """The error for the user: what was asked for, what went wrong, and the remedy."""
    if isinstance(error, errors.GatedRepoError):
        remedy = f"accept its terms at https://huggingface.co/{repo} and run `hf auth login`"
    elif isinstance(error, errors.RepositoryNotFoundError):
        remedy = "correct `repo`; if it is private, run `hf auth login`"
    elif isinstance(error, errors.RevisionNotFoundError):
        remedy = "correct `revision`: a branch, a tag or a full commit hash"
    else:
        remedy = f"check the network, or set {MIRROR_VARIABLE} to a folder that holds it"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return DataError(f"{kind} {repo}, revision {revision}: cannot be had from the hub ({reason}); {remedy}")
