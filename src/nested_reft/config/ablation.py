"""What the measurement of ablation influence passes to its job."""

from __future__ import annotations

from nested_reft.config.sampling import ModelJob


class InfluenceSettings(ModelJob):
    """Ablation influence of the layers of one model, on the prompts of the first data set."""

    stage: str
    problems: int
