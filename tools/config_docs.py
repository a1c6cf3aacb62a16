"""Writes config/README.md: every key of the configuration, from the classes of `nested_reft.config`.

The explanations are the texts under the keys there; types, ranges and defaults come from the JSON schema that pydantic
makes of the same classes. Corrections and layer selections are those of their registries in `nested_reft.core`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nested_reft.config.experiment import Config
from nested_reft.core.corrections import CORRECTIONS
from nested_reft.core.layer_selection import SELECTIONS

TARGET = Path(__file__).parents[1] / "config/README.md"
HEADER = """\
# Configuration

<!-- Written by `make config-docs` from src/nested_reft/config/; change the texts there. -->

`config.yaml` (the default), `smoke.yaml`, `smollm2.yaml` and `paper.yaml` are complete experiments.
`snakemake --configfile FILE` takes another, `--configfile FILE CHANGES` one with the keys of a second file in place of
its own; `changes/` has such files. Keys and values are checked before anything runs: an error names the key and what
would be right. Why the values are what they are is in [docs/choices.md](../docs/choices.md).

A key that is not required may be left out and then has its default. The range of a list is that of each entry. `<name>`
is a name of your own, of the characters `a-z 0-9 _ .`, the first a letter or digit.
"""
TYPES = {"boolean": "true or false", "string": "text", "object": "sections by name"}
BOUNDS = {"exclusiveMinimum": "> {}", "minimum": "≥ {}", "exclusiveMaximum": "< {}", "maximum": "≤ {}"}


def render(schema: dict[str, Any]) -> str:
    """The page; ValueError names a key or a section that has no explanation."""
    text = HEADER + "\n## Top level\n\n" + _table(schema, "")
    for name, paths in _sections(schema).items():
        definition = schema["$defs"][name]
        text += f"\n## {_heading(definition, paths)}\n\n{_explanation(definition, name)}\n\n"
        text += _table(definition, f"{paths[0]}.")
        if len(paths) > 1:
            text += f"\nThe same keys are under {_names(paths[1:])}.\n"
        if name == "LayerChoice":
            text += "\n" + _selections()
        if name == "RunCorrection":
            text += "\n" + _corrections()
    return text


def _sections(schema: dict[str, Any]) -> dict[str, list[str]]:
    """Every class that is used, in the order of the keys, and the paths where it is used."""
    found: dict[str, list[str]] = {}

    def walk(definition: dict[str, Any], prefix: str) -> None:
        for key, field in definition["properties"].items():
            for name, suffix in _classes(field):
                path = f"{prefix}{key}{suffix}"
                if path not in found.setdefault(name, []):  # several sources of a model may have the same section
                    found[name].append(path)
                walk(schema["$defs"][name], f"{path}.")

    walk(schema, "")
    return found


def _classes(field: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The classes that a key's value can have, each with the rest of its path after the key."""
    if "$ref" in field:
        yield field["$ref"].rpartition("/")[2], ""
    for choice in (*field.get("oneOf", ()), *field.get("anyOf", ())):
        yield from _classes(choice)
    for inner in field.get("patternProperties", {}).values():
        yield from ((name, f".<name>{suffix}") for name, suffix in _classes(inner))
    if field.get("additionalProperties"):
        yield from ((name, f".<correction>{suffix}") for name, suffix in _classes(field["additionalProperties"]))


def _heading(definition: dict[str, Any], paths: list[str]) -> str:
    source = definition["properties"].get("source")
    return f"`{paths[0]}`" + (f" with `source: {source['const']}`" if source else "")


def _table(definition: dict[str, Any], prefix: str) -> str:
    rows = ["| key | type | default | range | what it is |", "|---|---|---|---|---|"]
    for key, field in definition["properties"].items():
        path = f"{prefix}{key}"
        default = "required" if key in definition.get("required", ()) else _default(field)
        cells = (f"`{path}`", _type(field), default, _range(field), _explanation(field, path))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _explanation(part: dict[str, Any], path: str) -> str:
    """The text under a key or a class, one line per paragraph."""
    if "description" not in part:
        raise ValueError(f"{path}: has no explanation; write one under it in src/nested_reft/config/")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in part["description"].split("\n\n"))


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field or "oneOf" in field:
        return "section"
    if "anyOf" in field:
        return " or ".join("null" if choice == {"type": "null"} else _type(choice) for choice in field["anyOf"])
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return f"one of {_names(field['enum'])}"
    if "prefixItems" in field:
        return f"[{', '.join(map(_type, field['prefixItems']))}]"
    return f"list ({_type(field['items'])})" if field["type"] == "array" else TYPES.get(field["type"], field["type"])


def _range(field: dict[str, Any]) -> str:
    """The bounds of a value or of a list's values, and the minimal number of entries."""
    parts = [text.format(f"{field[bound]:g}") for bound, text in BOUNDS.items() if bound in field]
    parts += [f"`{field['pattern']}`"] if "pattern" in field else []
    inner = [*field.get("anyOf", ()), *([field["items"]] if "items" in field else field.get("prefixItems", [])[:1])]
    parts += filter(None, map(_range, inner))
    least = field.get("minProperties", 0 if "prefixItems" in field else field.get("minItems", 0))
    return ", ".join(parts + ([f"{least} entry or more"] if least else []))


def _default(field: dict[str, Any]) -> str:
    """As JSON, which is also YAML; a section's own defaults are listed with its keys."""
    return "its keys' defaults" if "$ref" in field else f"`{json.dumps(field['default'])}`"


def _corrections() -> str:
    rows = ["| correction | weight of token t | source | its parameters |", "|---|---|---|---|"]
    for entry in CORRECTIONS.values():
        parameters = "<br>".join(
            f"`{key}`: {parameter.range}, default `{parameter.default:g}`. {parameter.meaning}"
            for key, parameter in entry.parameters.items()
        )
        if entry.clip == "update":
            parameters = "none: `training.update_clip_low` and `training.update_clip_high` clip it"
        rows.append(f"| `{entry.name}` | ${entry.formula}$ | {entry.source} | {parameters or 'none'} |")
    intro = (
        "Parameters are keys beside it; one that is left out, or null, has its default. `gradients.corrections` takes "
        "the same. $\\rho_t$ is the ratio of target to behaviour policy, $A$ the advantage."
    )
    return intro + "\n\n" + "\n".join(rows) + "\n"


def _selections() -> str:
    rows = ["| strategy | the layers that it leaves out | source |", "|---|---|---|"]
    rows += [f"| `{entry.name}` | {entry.layers} | {entry.source} |" for entry in SELECTIONS.values()]
    return "\n".join(rows) + "\n"


def _names(values: list[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)


if __name__ == "__main__":
    TARGET.write_text(render(Config.model_json_schema()), encoding="utf-8")
