"""The settings of the reward."""

from __future__ import annotations

from typing import Literal

from nested_reft.config.strict import Strict


class Reward(Strict):
    """Which answers count, in training and in all measurements."""

    answer: Literal["any", "marked"] = "any"
    r"""`any`: the final answer, however it is written; `marked`: only one in a mark, as the prompt may ask for it:
    `\boxed{...}`, after `####`, in `<answer>`, or the value of `"answer"` in JSON. docs/grading.md has the rules."""
