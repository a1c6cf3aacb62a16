"""Reads YAML files strictly: a mapping at the top, and no key twice."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from nested_reft.config.strict import ConfigError


def read_settings(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError if there is none, or a key appears twice."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        with suppress(json.JSONDecodeError):
            json.loads(text)
            text = text.replace("\t", " ")  # JSON may be indented with tabs, and has no others; YAML may not
        settings = yaml.load(text, _UniqueKeys)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; config/ has config.yaml, smoke.yaml and paper.yaml") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except _RepeatedKeyError as error:
        raise ConfigError(f"{path}: {error}") from None
    # A ValueError comes from a scalar that looks like a date but is not one.
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: must hold keys and values, got {type(settings).__name__}")
    return settings


class _RepeatedKeyError(Exception):
    """A mapping has a key twice; YAML would silently take the second."""


class _UniqueKeys(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # a list or a mapping as a key: the next call refuses it, with its place
            line = key.start_mark.line + 1
            if key.value in lines:
                raise _RepeatedKeyError(f"the key '{key.value}' appears twice, in lines {lines[key.value]} and {line}")
            lines[key.value] = line
        return super().construct_mapping(node, deep)
