"""Writes requirements.lock: the exact version of everything that `pip install .[dev]` brings into a fresh environment.

torch's own CUDA libraries are left out: torch pins them itself, and a CPU build has none. A version without the
local part (`+cpu`) lets either build satisfy the lock. Extra arguments go to pip, e.g. a constraint on torch.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEADER = "# Written by `make lock`; `make env` installs exactly this.\n"
# Brought by CUDA builds of torch alone.
LEFT_OUT = re.compile(r"^(nvidia-|triton|cuda-|nested-reft)", re.IGNORECASE)


def locked_lines(frozen: str) -> list[str]:
    """`pip freeze` output as sorted `name==version` lines, without local versions and what torch pins itself."""
    lines = []
    for line in frozen.splitlines():
        name, separator, version = line.strip().partition("==")
        if separator and not LEFT_OUT.match(name):
            lines.append(f"{name}=={version.split('+')[0]}")
    return sorted(lines, key=str.lower)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = str(Path(folder) / "bin/python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"{ROOT}[dev]", *sys.argv[1:]], check=True)
        frozen = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout
    (ROOT / "requirements.lock").write_text(HEADER + "\n".join(locked_lines(frozen)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
