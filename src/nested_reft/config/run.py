"""One row of the run table: a training run, and the folder of its results."""

from __future__ import annotations

from typing import Literal

from nested_reft.config.strict import Strict

# The baseline is not a separate trainer: it is this correction at skip 0, where the ratio is 1.
BASELINE_CORRECTION = "base"
# What a model is before any reinforcement.
Stage = Literal["pretrained", "warmed_up"]
PRETRAINED: Stage = "pretrained"
WARMED_UP: Stage = "warmed_up"
STAGES: dict[Stage, str] = {PRETRAINED: "pre-trained", WARMED_UP: "warmed-up"}
# The same warm-up without its layer drop: a model that is only measured.
WITHOUT_LAYER_DROP = "warmed_up_without_layer_drop"


class Run(Strict):
    """One row of the run table; `path` is its folder under `runs/`. At skip 0 there is nothing to choose."""

    size: str
    dataset: str
    correction: str
    skip: int
    strategy: str = "uniform"
    seed: int

    @property
    def rollout(self) -> str:
        """How the rollouts are made, as a part of the path: `skip25` (uniform), `skip25-static`."""
        return f"skip{self.skip}" if self.strategy == "uniform" else f"skip{self.skip}-{self.strategy}"

    @property
    def path(self) -> str:
        return f"{self.size}/{self.dataset}/{self.correction}/{self.rollout}/seed{self.seed}"
