"""What behaviour policies are worth, from the tidy table of timed batches: means with intervals over batches."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nested_reft.config.experiment import Config, measured_models
from nested_reft.report.statistics.intervals import POSITIVE, SHARE, UNBOUNDED, Interval, t_interval

Key = tuple[str, str, int, str, str]  # size, stage, skip, strategy, precision
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
    keys = [
        (size, stage, skip, strategy, precision)
        for size in config.sizes
        for stage in measured_models(config)
        for skip in sorted({0, *config.skips})
        for strategy in (options.strategies if skip else options.strategies[:1])
        for precision in options.precisions
    ]
    with_effective = table.assign(effective=table["speedup"] * table["ess"])
    columns = ["size", "stage", "skip", "strategy", "precision"]
    grouped = dict(iter(with_effective.groupby(columns, sort=False)))
    return {key: _intervals(grouped[key]) if key in grouped else None for key in keys}


def worths(table: pd.DataFrame, config: Config) -> dict[tuple[str, int], Interval | None]:
    """Effective tokens per second of nested rollouts over the baseline's, per (size, skip), for C7: of the model that
    reinforcement starts from, by the first strategy, in the precision of training.
    """
    options, own = config.nestability, config.training.rollout_precision or config.training.dtype
    if options is None:
        return {}
    asked = measured_models(config)[-1], options.strategies[0], own
    return {
        (size, skip): found["effective"] if found else None
        for (size, stage, skip, strategy, precision), found in behaviour_cells(table, config).items()
        if skip and (stage, strategy, precision) == asked
    }


def _intervals(batches: pd.DataFrame) -> dict[str, Interval]:
    return {name: t_interval(batches[name].to_numpy(dtype=np.float64), scale) for name, scale in SCALES.items()}
