"""The settings of how every model is prompted and sampled."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from pydantic import Field, StringConstraints, model_validator

from nested_reft.config.strict import Positive, Strict


class Prompt(Strict):
    """How a question becomes a prompt."""

    style: Literal["plain", "chat"]
    """`plain`: the question as it is; `chat`: in the model's own chat template."""
    system: str | None = None
    """The system message of the chat template; null: none. `plain` has none."""
    suffix: str = ""
    """Appended to the question, in both styles."""
    template: str | None = None
    """The name of the chat template, if the model has several; null: the default one. `plain` has none."""
    end_tokens: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = ()
    """Tokens that end a completion, besides the model's own end tokens and, in style `chat`, the one that ends a turn
    of the template. Each must be one token of every model."""

    @model_validator(mode="after")
    def _only_chat_has_a_template(self) -> Prompt:
        if self.style == "plain" and self.template is not None:
            raise ValueError("template: style `plain` has none; remove it, or set `style: chat`")
        return self


Precision = Literal["float32", "bfloat16", "int8"]


class Sampling(Strict):
    """How completions are sampled."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """The logits are divided by it."""
    top_k: Positive | None = None
    """Sample from the k most probable tokens; null: from all."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Sample from the fewest most probable tokens whose total probability reaches this; null: from all."""


class Lengths(Protocol):
    """Settings that say how long prompts and completions may be, in tokens."""

    @property
    def max_prompt_tokens(self) -> int: ...

    @property
    def max_new_tokens(self) -> int: ...


class ModelJob(Strict):
    """What every job that measures one model, or warms it up, is passed; lengths and dtype are those of training."""

    size: str
    prompt: Prompt
    max_new_tokens: int
    max_prompt_tokens: int
    dtype: str
    device: str
