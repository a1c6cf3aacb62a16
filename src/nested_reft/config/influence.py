"""What the measurement of ablation influence passes to its job."""

from __future__ import annotations

from nested_reft.config.sampling import Prompt
from nested_reft.config.strict import Strict


class InfluenceSettings(Strict):
    """Ablation influence of the layers of one model, on the prompts of the first data set."""

    size: str
    stage: str
    problems: int
    prompt: Prompt
    max_new_tokens: int
    max_prompt_tokens: int
    dtype: str
    device: str
