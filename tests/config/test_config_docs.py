"""config/README.md: is what the code says, and says something of every key."""

from __future__ import annotations

from typing import Any

import pytest
from config_docs import TARGET, render

from nested_reft.config.experiment import Config


@pytest.fixture
def schema() -> dict[str, Any]:
    return Config.model_json_schema()


def test_the_committed_page_is_what_the_code_says(schema: dict[str, Any]) -> None:
    assert TARGET.read_text(encoding="utf-8") == render(schema), (
        "config/README.md is out of date; run `make config-docs`"
    )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (("$defs", "Alarms", "properties", "kl_above"), r"^training\.alarms\.kl_above: has no explanation"),
        (("$defs", "Throughput"), r"^Throughput: has no explanation"),
    ],
)
def test_what_has_no_explanation_is_an_error(schema: dict[str, Any], section: tuple[str, ...], message: str) -> None:
    found = schema
    for key in section:
        found = found[key]
    del found["description"]
    with pytest.raises(ValueError, match=message):
        render(schema)
