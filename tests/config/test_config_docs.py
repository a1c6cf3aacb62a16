"""config/README.md: is what the code says, and says something of every key."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from config_docs import TARGET, render
from valid_config import CONFIGS

from nested_reft.config.experiment import Config
from nested_reft.core.corrections import CORRECTIONS
from nested_reft.core.layer_selection import SELECTIONS


@pytest.fixture
def schema() -> dict[str, Any]:
    return Config.model_json_schema()


def row(key: str) -> list[str]:
    """The cells of a key in the committed page."""
    lines = TARGET.read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(f"| `{key}` |"))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_committed_page_is_what_the_code_says(schema: dict[str, Any]) -> None:
    assert TARGET.read_text(encoding="utf-8") == render(schema), (
        "config/README.md is out of date; run `make config-docs`"
    )


def test_a_key_without_an_explanation_is_an_error(schema: dict[str, Any]) -> None:
    del schema["$defs"]["Alarms"]["properties"]["kl_above"]["description"]
    with pytest.raises(ValueError, match=r"^training\.alarms\.kl_above: has no explanation"):
        render(schema)


def test_a_section_without_an_explanation_is_an_error(schema: dict[str, Any]) -> None:
    del schema["$defs"]["Throughput"]["description"]
    with pytest.raises(ValueError, match=r"^Throughput: has no explanation"):
        render(schema)


@pytest.mark.parametrize(
    ("key", "cells"),
    [
        ("training.steps", ["integer", "required", "≥ 1"]),
        ("training.update_clip_low", ["number", "`0.2`", "> 0, < 1"]),
        ("training.top_k", ["integer or null", "`null`", "≥ 1"]),
        ("training.advantage_std", ["true or false", "`true`", ""]),
        ("training.alarms", ["section", "its keys' defaults", ""]),
        ("skips", ["list (integer)", "required", "≥ 0, < 100, 1 entry or more"]),
        ("sizes", ["sections by name", "required", "1 entry or more"]),
        ("pretraining", ["section or null", "`null`", ""]),
        ("evaluation.headline", ["one of `greedy`, `sampled`", '`"sampled"`', ""]),
    ],
)
def test_type_default_and_range_are_those_of_the_class(key: str, cells: list[str]) -> None:
    assert row(key)[1:4] == cells


@pytest.mark.parametrize("name", CORRECTIONS)
def test_a_correction_and_its_parameters_are_those_of_the_registry(name: str) -> None:
    formula, source, parameters = row(name)[1:]
    assert (formula, source) == (f"${CORRECTIONS[name].formula}$", CORRECTIONS[name].source)
    if CORRECTIONS[name].clip == "update":
        assert parameters == "none: `training.update_clip_low` and `training.update_clip_high` clip it"
        return
    known = CORRECTIONS[name].parameters
    assert parameters == "none" if not known else len(parameters.split("<br>")) == len(known)
    for key, parameter in known.items():
        assert f"`{key}`: {parameter.range}, default `{parameter.default:g}`. {parameter.meaning}" in parameters


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_layer_selection_is_that_of_the_registry(name: str) -> None:
    assert row(name)[1:] == [SELECTIONS[name].layers, SELECTIONS[name].source]


@pytest.mark.parametrize("name", ["config.yaml", "smoke.yaml", "paper.yaml"])
def test_every_key_of_the_configs_has_its_row_or_stands_in_a_section_that_has(name: str) -> None:
    text = TARGET.read_text(encoding="utf-8")
    for key, value in yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8")).items():
        row(key)
        if isinstance(value, dict) and key not in ("sizes", "datasets", "benchmarks", "corrections", "resources"):
            for inner in value:
                assert f"| `{key}.{inner}` |" in text
