"""Turns pydantic's errors into one line for the user: which key, what is wrong, what would be right."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError


def nearest(word: str, choices: Iterable[str]) -> str:
    """A hint: the most similar of the possible words, or all of them if none is similar."""
    choices = sorted(choices)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"possible: {', '.join(choices)}"


def explain(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """The errors, each as `key: what is wrong`."""
    return list(dict.fromkeys(_explain_one(item, root) for item in error.errors()))


def _explain_one(item: Any, root: type[BaseModel]) -> str:
    location, kind = tuple(item["loc"]), item["type"]
    models, keys = _walk(location, root)
    key = ".".join(keys)
    if kind == "extra_forbidden" and models:
        return f"{key}: unknown key, {nearest(keys[-1], _yaml_keys(models[-1]))}"
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
            return f"{key}{message}"
        return f"{key}: {message}" if key else message
    return f"{key}: {message[0].lower() + message[1:]}, got {shortened(item['input'])}"


def shortened(value: Any) -> str:
    """A value as Python writes it, truncated if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _quoted(text: str) -> list[str]:
    return text.split("'")[1::2]


def _yaml_keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _walk(location: tuple[Any, ...], root: type[BaseModel]) -> tuple[list[type[BaseModel]], list[str]]:
    """Follow pydantic's location; returns the models passed and the keys as in the YAML file.

    Pydantic puts the tag of a discriminated union and the marker `[key]` into the location; the file has neither.
    """
    models, keys = [root], list[str]()
    annotation: Any = root
    for part in location:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        if get_origin(annotation) in (Union, types.UnionType):
            tagged = [choice for choice in get_args(annotation) if _has_tag(choice, part)]
            if tagged:
                models.append(tagged[0])
                annotation = tagged[0]
                continue
            annotation = next((choice for choice in get_args(annotation) if choice is not type(None)), None)
        if part == "[key]":
            continue
        keys.append(str(part))
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            if models[-1] is not annotation:
                models.append(annotation)
            field = next((f for name, f in annotation.model_fields.items() if part in (name, f.alias)), None)
            annotation = field.annotation if field else None
        elif get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        else:
            annotation = next(iter(get_args(annotation)), None)
    return models, keys


def _has_tag(choice: Any, tag: Any) -> bool:
    if not (isinstance(choice, type) and issubclass(choice, BaseModel) and "source" in choice.model_fields):
        return False
    annotation = choice.model_fields["source"].annotation
    return get_origin(annotation) is Literal and tag in get_args(annotation)
