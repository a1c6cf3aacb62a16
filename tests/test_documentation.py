"""What the pages promise: every command of the README and of `docs/get_started.md` can be called, every change of its
table is a config, the steps of `docs/method.md` are those of the code, and the trainer in `docs/own_trainer.md` trains.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from page_trainer import check_output, page_code, tiny_code

import nested_reft
from nested_reft.config.experiment import load_config, parse_config
from nested_reft.config.reading import read_settings
from nested_reft.core.corrections import CORRECTIONS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
START = (ROOT / "docs/get_started.md").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs").glob("*.md"))
PROGRAMS = ("make", "snakemake", "nested-reft", "pip", "conda", "docker", "apptainer", "sbatch")


def commands() -> list[str]:
    """Every command of both pages, from their blocks and their sentences, without comments and repeats."""
    text = README + START
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += [text.replace("\n", " ") for text in re.findall(r"`([^`]+)`", prose)]
    return list(dict.fromkeys(line for line in lines if line.split(" ")[0] in PROGRAMS and line not in PROGRAMS))


def changes() -> list[tuple[str, dict[str, Any]]]:
    """The rows of the table of changes: what it is for, and the settings that its second column writes."""
    table = START.partition("| to | change |\n|---|---|\n")[2].partition("\n\n")[0]
    assert table, "there is no table of changes"
    rows = []
    for row in table.splitlines():
        purpose, change = (cell.strip() for cell in row.strip("| ").split(" | ", 1))
        settings: dict[str, Any] = {}
        parents: list[str] = []
        for snippet in re.findall(r"`([^`]+)`", change):
            if snippet.endswith(":"):
                parents = snippet.rstrip(":").split(": ")
            if ":" not in snippet or snippet.endswith(":"):
                continue
            value = yaml.safe_load("{" + snippet.removesuffix(",") + "}")
            for parent in reversed(parents):
                value = {parent: value}
            settings = merged(settings, value)
        rows.append((purpose, settings))
    return rows


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`old` with the settings of `new`, dictionaries key by key."""
    result = dict(old)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


@pytest.mark.slow
@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("snakemake ")])
def test_a_snakemake_command_finds_its_targets(command: str) -> None:
    """A dry run: what it would do is done by the tests of the workflow."""
    options = shlex.split(command)[1:]
    if "--report" in options:  # reads what is there; the report's own test makes one
        options = options[: options.index("--report")]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *options, "--dry-run", "--quiet", "--nolock", "--cores", "1"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_commands_have_rules_extras_and_sub_commands() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for command in commands():
        if command.startswith("pip "):
            named = re.search(r"\.\[(.*)\]", command)
            assert "-e ." in command or "-e '." in command
            assert set(named.group(1).split(",")) <= set(extras) if named else True
        elif command.startswith(("make ", "nested-reft ")):
            program, *words = shlex.split(command)
            words = (
                ["make", *words, "--dry-run"] if program == "make" else [sys.executable, "-m", "nested_reft", *words]
            )
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert done.stdout


@pytest.mark.parametrize(("purpose", "change"), changes(), ids=[purpose for purpose, _ in changes()])
def test_a_change_of_the_table_is_a_config_and_changes_it(purpose: str, change: dict[str, Any]) -> None:
    path = ROOT / "config/config.yaml"
    assert change
    assert parse_config(merged(read_settings(path), change)) != load_config(path)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_commands_and_settings_fit_a_narrow_page(page: Path) -> None:
    blocks = re.findall(r"^```(?:sh|yaml)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert [line for block in blocks for line in block.splitlines() if len(line) > 72] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_settings_that_a_page_shows_are_settings(page: Path) -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        parse_config(merged(read_settings(ROOT / "config/paper.yaml"), yaml.safe_load(block)))


def test_the_steps_of_the_page_are_those_of_the_code() -> None:
    """Each step of the page begins, in bold, with the words that the comment of that number begins with."""
    code = (ROOT / "src/nested_reft/training/step.py").read_text(encoding="utf-8").partition("def reft_step(")[2]
    page = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    comments = re.findall(r"^ +# (\d)\. (.*)$", code, re.MULTILINE)
    steps = re.findall(r"^(\d)\. \*\*(.+?)\*\*", page, re.MULTILINE)
    assert [number for number, _ in comments] == [number for number, _ in steps] == list("12345678")
    for (number, comment), (_, words) in zip(comments, steps, strict=True):
        assert comment.startswith(words.replace("π", "pi")), f"step {number}: '{words}' and '{comment}'"


def test_the_pages_count_the_corrections() -> None:
    numbers = {12: "twelve", 11: "eleven"}
    assert f"or one of {numbers[len(CORRECTIONS) - 1]} others" in README
    assert f"one of {numbers[len(CORRECTIONS)]} corrections" in (ROOT / "docs/gradients.md").read_text(encoding="utf-8")


def test_the_page_of_the_method_has_every_correction() -> None:
    text = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    table = text.partition("**Weights**")[2].partition("\n\n**")[0]
    named = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert named == list(CORRECTIONS)


def test_the_trainer_of_the_page_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(tiny_code(tmp_path), "docs/own_trainer.md", "exec"), {})
    check_output(capsys.readouterr().out)


def test_the_trainer_of_the_page_is_short_and_uses_the_public_names_only() -> None:
    code = page_code()
    lines = len(code.splitlines())
    for page in ("README.md", "docs/index.md"):
        assert f" {lines} lines" in (ROOT / page).read_text(encoding="utf-8")
    assert re.findall(r"^.*nested_reft.*$", code, re.MULTILINE) == ["import nested_reft as nr"]
    used = set(re.findall(r"\bnr\.(\w+)", code))
    assert used == set(nested_reft.__all__) - {
        "Rollout",
        "RolloutWeights",
        "importance_weights",
        "off_policy_diagnostics",
    }
