"""What is checked before any training starts: each prompt of each model, with the tokens that are to follow."""

from __future__ import annotations

from typing import Literal

from nested_reft.config.sampling import Prompt
from nested_reft.config.sources import Model
from nested_reft.config.strict import Strict


class Request(Strict):
    """So many new tokens after each prompt of a set of problems, as a key of the config asks for."""

    role: Literal["train", "test"]
    problems: str
    key: str
    new_tokens: int
    max_prompt_tokens: int


class CheckSettings(Strict):
    """All models of an experiment, and what is asked of each of them."""

    sizes: dict[str, Model]
    prompt: Prompt
    requests: tuple[Request, ...]
