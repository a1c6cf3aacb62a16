"""How nestable each model is, from the tidy table of batches: means with intervals over batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from nested_reft.config.experiment import Config, layer_choices, measured_models, nested_skips
from nested_reft.config.run import PRETRAINED, STAGES, WARMED_UP, WITHOUT_LAYER_DROP
from nested_reft.report.statistics.intervals import POSITIVE, SHARE, UNBOUNDED, Interval, t_interval

Key = tuple[str, str, str, int]  # size, stage, choice of layers, skip


@dataclass(frozen=True)
class Nestability:
    """One model with one choice of layers at one skip: intervals over batches, by quantity."""

    num_skipped: int
    intervals: dict[str, Interval]


def nestability_cells(table: pd.DataFrame, config: Config) -> dict[Key, Nestability | None]:
    """Every cell of the measurement, nested skips only; None where nothing was measured (`nestability_batches.csv`)."""
    grouped = dict(iter(table.groupby(["size", "stage", "strategy", "border", "skip"], sort=False)))
    keys = {
        (size, stage, name, skip): (size, stage, *choice, skip)
        for size in config.sizes
        for stage in measured_models(config)
        for choice, name in choice_names(config).items()
        for skip in nested_skips(config)
    }
    return {key: _cell(grouped[row]) if row in grouped else None for key, row in keys.items()}


def choice_names(config: Config) -> dict[tuple[str, int], str]:
    """What each choice of layers is called, by strategy and border: as the strategy, at the border of training."""
    own = config.training.border
    return {
        (strategy, border): strategy if border == own else f"{strategy}, border {border}"
        for _, strategy, border in layer_choices(config)
    }


def full_model_reward(table: pd.DataFrame, size: str, stage: str) -> float | None:
    """The mean reward of a model's own rollouts on the same problems; None if not measured."""
    full = table[(table["size"] == size) & (table["stage"] == stage) & (table["skip"] == 0)]
    return None if full.empty else float(full["reward"].mean())


def model_names(config: Config) -> dict[str, str]:
    """What the measured models are called, by stage."""
    drop = config.warmup.layer_drop if config.warmup else 0
    names: dict[str, str] = {PRETRAINED: STAGES[PRETRAINED], WITHOUT_LAYER_DROP: f"{STAGES[WARMED_UP]}, no layer drop"}
    names[WARMED_UP] = f"{STAGES[WARMED_UP]}, layer drop {drop:g}" if drop else STAGES[WARMED_UP]
    return {stage: names[stage] for stage in measured_models(config)}


def _cell(batches: pd.DataFrame) -> Nestability:
    values = {name: batches[name].to_numpy(dtype=np.float64) for name in ("kl_k1", "ess", "ess_sequence", "reward")}
    # A sampled KL near 0 may come out negative, where there is no log scale.
    kl_scale = POSITIVE if values["kl_k1"].mean() > 0 else UNBOUNDED
    scales = {"kl_k1": kl_scale, "ess": SHARE, "ess_sequence": SHARE, "reward": UNBOUNDED}
    return Nestability(
        num_skipped=len(str(batches["skipped_layers"].iloc[0]).split()),
        intervals={name: t_interval(values[name], scale=scale) for name, scale in scales.items()},
    )
