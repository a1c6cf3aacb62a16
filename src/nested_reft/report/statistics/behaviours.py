"""What behaviour policies are worth, from the tidy table of timed batches: means with intervals over batches."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nested_reft.config.experiment import Config, layer_choices, measured_models
from nested_reft.report.statistics.intervals import POSITIVE, SHARE, UNBOUNDED, Interval, t_interval
from nested_reft.report.statistics.nestability import choice_names

Key = tuple[str, str, int, str, str]  # size, stage, skip, choice of layers, precision
SCALES = {"speedup": POSITIVE, "ess": SHARE, "ess_sequence": SHARE, "effective": POSITIVE, "reward": UNBOUNDED}


def behaviour_cells(table: pd.DataFrame, config: Config) -> dict[Key, dict[str, Interval] | None]:
    """Every behaviour policy that is timed, the whole model in each precision too: intervals over batches of the
    quantities `SCALES`; None where nothing was measured (`behaviour_batches.csv`).

    `effective`: its tokens per second times the effective sample size of a token, over the baseline's tokens per
    second; of each batch by itself, since speed and sample size vary together.
    """
    options = config.nestability
    if options is None:
        return {}
    names = choice_names(config)
    keys = {
        (size, stage, skip, names[strategy, border], precision): (size, stage, skip, strategy, border, precision)
        for size in config.sizes
        for stage in measured_models(config)
        for skip, strategy, border in layer_choices(config)
        for precision in options.precisions
    }
    with_effective = table.assign(effective=table["speedup"] * table["ess"])
    columns = ["size", "stage", "skip", "strategy", "border", "precision"]
    grouped = dict(iter(with_effective.groupby(columns, sort=False)))
    return {key: _intervals(grouped[row]) if row in grouped else None for key, row in keys.items()}


def worths(table: pd.DataFrame, config: Config) -> dict[tuple[str, int], Interval | None]:
    """Effective tokens per second of nested rollouts over the baseline's, per (size, skip), for C7: of the model that
    reinforcement starts from, by the first strategy, in the precision of training.
    """
    options, own = config.nestability, config.training.rollout_precision or config.training.dtype
    if options is None or not measured_models(config):
        return {}
    asked = measured_models(config)[-1], options.strategies[0], own
    return {
        (size, skip): found["effective"] if found else None
        for (size, stage, skip, strategy, precision), found in behaviour_cells(table, config).items()
        if skip and (stage, strategy, precision) == asked
    }


def _intervals(batches: pd.DataFrame) -> dict[str, Interval]:
    return {name: t_interval(batches[name].to_numpy(dtype=np.float64), scale) for name, scale in SCALES.items()}
