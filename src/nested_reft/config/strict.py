"""The base of every settings class: frozen, strict about keys, and hashed by its canonical JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nested_reft.config.errors import explain, nearest
from nested_reft.runtime.errors import UserError

Positive = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.]*$")]
Percent = Annotated[int, Field(ge=0, lt=100)]


class ConfigError(UserError, ValueError):
    """A configuration that cannot be run; the message is one line for the user."""


class Strict(BaseModel):
    # Neither infinity nor NaN: JSON, as which settings reach the jobs, has no such numbers.
    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, settings: Any) -> Any:
        if isinstance(settings, Mapping) and cls.model_config["extra"] == "forbid":
            known = {field.alias or name for name, field in cls.model_fields.items()}
            for key in settings.keys() - known - cls.model_fields.keys():
                raise ValueError(f".{key}: unknown key, {nearest(str(key), known)}")
        return settings

    def canonical_json(self) -> str:
        """The settings as compact JSON: what a rule passes to its sub-command, and what is hashed.

        Keys are in the order of the class, names (of sizes, benchmarks, ...) in that of the config, which is the order
        of all tables and figures; defaults are filled in, so that spelling one out changes nothing.
        """
        return json.dumps(self.model_dump(mode="json", by_alias=True), separators=(",", ":"))


def settings_hash(canonical: str) -> str:
    """First 16 hex digits of the SHA-256 of a canonical JSON text."""
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


T = TypeVar("T", bound=Strict)


def parse(model: type[T], settings: Mapping[str, Any] | str, where: str, said: Mapping[str, Any] | None = None) -> T:
    """Check a mapping (or its JSON text) against `model`.

    In the error, `where` names the source of what is wrong, or `--config` if it is what was `said` on the command line.
    """
    try:
        given = json.loads(settings) if isinstance(settings, str) else settings
    except ValueError as error:
        raise ConfigError(f"{where}: is not JSON: {error}") from None
    try:
        return model.model_validate(given)
    except ValidationError as error:
        wrong: dict[str, list[str]] = {}
        for text in explain(error, given):
            wrong.setdefault("--config" if _has(said or {}, text.partition(":")[0]) else where, []).append(text)
        raise ConfigError("; ".join(f"{source}: {'; '.join(texts)}" for source, texts in wrong.items())) from None


def _has(settings: Mapping[str, Any], key: str) -> bool:
    """Whether a mapping has a key such as `training.steps`, or a value in place of the section."""
    found: Any = settings
    for part in key.split("."):
        if not isinstance(found, Mapping):
            break
        if part not in found:
            return False
        found = found[part]
    return True
