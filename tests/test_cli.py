"""`nested-reft` without the packages of the extra `pipeline`: help works, a sub-command says what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nested_reft import cli

# What a plain `pip install -e .` may lack; None in sys.modules makes an import raise ModuleNotFoundError.
WITHOUT_EXTRA = """
import sys
sys.modules.update(dict.fromkeys(["matplotlib", "pandas", "pydantic", "scipy", "seaborn", "snakemake", "yaml"]))
from nested_reft.cli import main
sys.exit(main(sys.argv[1:]))
"""


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRA, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["plan", "--help"]])
def test_help_and_version_need_no_extra(arguments: list[str]) -> None:
    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("command", ["collect", "plan", "summary"])
def test_a_sub_command_without_its_packages_says_in_one_line_what_to_install(command: str, tmp_path: Path) -> None:
    options = {
        "collect": ["--root", str(tmp_path)],
        "plan": [],
        "summary": ["--root", str(tmp_path)],
    }
    done = call(command, *options[command])
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"nested-reft {command}: error: the package '")
    assert line.endswith("' is not installed; run: pip install 'nested-reft[pipeline]'")


@pytest.mark.parametrize("name", ["nested_reft.commands.sumary", "tomllib", None])
def test_a_missing_module_that_no_extra_brings_keeps_its_traceback(
    name: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_: str) -> None:
        raise ModuleNotFoundError("no such module", name="tomllib" if name == "tomllib" else name)

    monkeypatch.setattr(cli, "import_module", fail)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["summary", "--root", str(tmp_path)])
