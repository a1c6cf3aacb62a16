"""Turns pydantic's errors into one line for the user: which key, what is wrong, what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError


def nearest(word: str, choices: Iterable[str]) -> str:
    """A hint: the most similar of the possible words, or all of them if none is similar."""
    choices = sorted(choices)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"possible: {', '.join(choices)}"


def explain(error: ValidationError, settings: Any) -> list[str]:
    """The errors in these settings, each as `key: what is wrong`."""
    return list(dict.fromkeys(_explain_one(item, settings) for item in error.errors()))


def _explain_one(item: Any, settings: Any) -> str:
    kind = item["type"]
    key = ".".join(_keys(item["loc"], settings, kind))
    if kind == "missing":
        return f"{key}: is missing"
    if kind in ("tuple_type", "list_type"):
        return f"{key}: must be a list, in brackets, got {shortened(item['input'])}"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return f"{key}: must be keys and values, got {shortened(item['input'])}"
    if (kind.endswith("_type") or kind == "literal_error") and isinstance(item["input"], list | tuple | dict):
        return f"{key}: must be one value, got {shortened(item['input'])}"
    if kind == "literal_error":
        return (
            f"{key}: unknown value {shortened(item['input'])}, "
            f"{nearest(str(item['input']), _quoted(item['ctx']['expected']))}"
        )
    if kind == "union_tag_invalid":
        choices = _quoted(item["ctx"]["expected_tags"])
        return f"{key}.source: unknown value {shortened(item['ctx']['tag'])}, {nearest(item['ctx']['tag'], choices)}"
    if kind == "union_tag_not_found":
        return f"{key}: needs the key 'source'"
    message = item["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        if message.startswith("."):  # a check of the whole mapping, about one key in it
            return f"{key}{message}".removeprefix(".")
        return f"{key}: {message}" if key else message
    return f"{key}: {message[0].lower() + message[1:]}, got {shortened(item['input'])}"


def shortened(value: Any) -> str:
    """A value as Python writes it, truncated if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _quoted(text: str) -> list[str]:
    return text.split("'")[1::2]


def _keys(location: Iterable[str | int], settings: Any, kind: str) -> Iterator[str]:
    """The keys in pydantic's location, which also has what is not in the settings: tags of classes and `[key]`."""
    parts, found = list(location), settings
    for place, part in enumerate(parts):
        listed = isinstance(found, list | tuple) and isinstance(part, int) and part < len(found)
        if listed or (isinstance(found, Mapping) and part in found):
            found = found[part]
        elif kind != "missing" or place < len(parts) - 1:
            continue
        yield str(part)
