"""The commit in a manifest is that of this project's clone, or null: never somebody else's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from nested_reft.runtime.manifest import build_manifest, commit_of


def git(folder: Path, *arguments: str) -> str:
    names = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(["git", *names, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit_all(folder: Path) -> str:
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "all")
    return git(folder, "rev-parse", "HEAD")


def unpack(root: Path) -> Path:
    """The project's files, as an archive has them; the folder of its package."""
    package = root / "src/nested_reft"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    return package


def test_a_clone_has_its_commit_and_says_if_it_was_changed(tmp_path: Path) -> None:
    package = unpack(tmp_path)
    assert commit_of(package) == (None, None), "an archive outside any repository"
    commit = commit_all(tmp_path)
    assert commit_of(package) == (commit, False)
    (tmp_path / "results.json").touch()  # untracked
    assert commit_of(package) == (commit, False)
    (package / "__init__.py").write_text("# changed\n", encoding="utf-8")
    assert commit_of(package) == (commit, True)


def test_a_worktree_and_a_submodule_are_clones(tmp_path: Path) -> None:
    unpack(tmp_path / "clone")
    commit = commit_all(tmp_path / "clone")
    git(tmp_path / "clone", "worktree", "add", "--quiet", str(tmp_path / "tree"))
    assert commit_of(tmp_path / "tree/src/nested_reft") == (commit, False)
    (tmp_path / "other").mkdir()
    commit_all(tmp_path / "other")
    git(tmp_path / "other", "-c", "protocol.file.allow=always", "submodule", "--quiet", "add",
        str(tmp_path / "clone"), "deps/clone")  # fmt: skip
    assert commit_of(tmp_path / "other/deps/clone/src/nested_reft") == (commit, False)


@pytest.mark.parametrize(
    ("place", "tracked"), [("nested-reft-0.1.0", False), ("nested-reft-0.1.0", True), ("deps/us", True), (".", False)]
)
def test_an_archive_inside_another_repository_has_no_commit(tmp_path: Path, place: str, tracked: bool) -> None:
    if not tracked:
        commit_all(tmp_path)
    package = unpack(tmp_path / place)
    if tracked:
        commit_all(tmp_path)
    assert commit_of(package) == (None, None)


def test_an_installed_package_has_no_commit(tmp_path: Path) -> None:
    """Its environment is often inside a clone."""
    unpack(tmp_path)
    commit_all(tmp_path)
    package = tmp_path / ".venv/lib/site-packages/nested_reft"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    assert commit_of(package) == (None, None)


def test_the_repository_of_a_hook_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = unpack(tmp_path / "ours")
    commit = commit_all(tmp_path / "ours")
    (tmp_path / "theirs").mkdir()
    commit_all(tmp_path / "theirs")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "theirs/.git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "ours"))
    assert commit_of(package) == (commit, False)


def test_a_repository_that_git_distrusts_and_a_machine_without_git_are_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = unpack(tmp_path)
    commit_all(tmp_path)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert commit_of(package) == (None, None)
    monkeypatch.delenv("GIT_TEST_ASSUME_DIFFERENT_OWNER")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert commit_of(package) == (None, None)
    manifest = build_manifest("{}", "hash")
    assert (manifest["commit"], manifest["dirty"]) == (None, None)
