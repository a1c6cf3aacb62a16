"""What `nested-reft plan` assumes of an experiment. No job reads it, so that changing it runs nothing again."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nested_reft.config.strict import Positive, Strict

AboveZero = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class Planned(Strict):
    """What `nested-reft plan` assumes of this experiment where its options say nothing; null: the command's default."""

    prompt_tokens: Positive | None = None
    """Mean length of a prompt."""
    length: Share | None = None
    """Mean length of a completion, as a share of the maximum."""
    mixed: Share | None = None
    """Share of the groups whose completions do not all have the same reward; only these have a backward pass."""
    distinct: Share | None = None
    """Share of one problem's completions that are distinct, in what `gradients.by_completion` samples: it computes with
    each of these once."""
    cpu_teraflops: AboveZero | None = None
    """10^12 FLOP/s that a job's CPU threads reach with these models; large matrices are faster than small ones."""
    cpu_gigabytes_per_s: AboveZero | None = None
    """Their speed of reading weights and cache."""
