"""The settings of how every model is prompted and sampled."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nested_reft.config.strict import Positive, Strict


class Prompt(Strict):
    """How a question becomes a prompt."""

    style: Literal["plain", "chat"]
    """`plain`: the question as it is; `chat`: in the model's own chat template."""
    system: str | None = None
    """The system message of the chat template; null: none. `plain` has none."""
    suffix: str = ""
    """Appended to the question, in both styles."""


class Sampling(Strict):
    """How completions are sampled."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """The logits are divided by it."""
    top_k: Positive | None = None
    """Sample from the k most probable tokens; null: from all."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Sample from the fewest most probable tokens whose total probability reaches this; null: from all."""
