"""Figures of learning: the training rollouts' reward against steps, and against seconds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nested_reft.config.experiment import Config, nested_corrections, nested_skips
from nested_reft.config.run import BASELINE_CORRECTION
from nested_reft.report.figures.style import (
    BASELINE,
    Look,
    legend,
    look_of,
    not_run,
    of_model,
    panels,
    rows,
    sparse_markers,
)

SECONDS = ["rollout_seconds", "reward_seconds", "update_seconds"]
GRID = 100  # moments at which the seeds of a run are compared

# A run's rewards (x, one column per seed), smoothed over that many steps.
Curves = Callable[[pd.DataFrame, int], pd.DataFrame]


def reward(training: pd.DataFrame, config: Config) -> Figure:
    """Reward against step: rows are sizes (and data sets), columns skips; mean, and band of the seeds' range."""
    return _learning(training, config, rewards_by_step, "training step")


def reward_time(training: pd.DataFrame, config: Config) -> Figure:
    """Reward against the seconds that a run has trained; panels, mean and band as in `reward`."""
    return _learning(training, config, rewards_by_time, "seconds of training")


def smoothing_window(steps: int) -> int:
    """Steps in the moving mean of the reward curves: an odd number near a tenth of the run, 1 for short runs."""
    return max(1, steps // 10 // 2 * 2 + 1)


def rewards_by_step(runs: pd.DataFrame, window: int) -> pd.DataFrame:
    """Moving mean of the reward (steps, seeds)."""
    by_seed = runs.pivot(index="step", columns="seed", values="reward")
    return by_seed.rolling(window, center=True, min_periods=1).mean()


def rewards_by_time(runs: pd.DataFrame, window: int) -> pd.DataFrame:
    """Moving mean of the reward (GRID, seeds) at moments that all seeds have reached, in seconds of training.

    The seconds are those of rollout, reward and update; between two steps' ends the reward is interpolated.
    """
    smooth = rewards_by_step(runs, window)
    seconds = runs.assign(seconds=runs[SECONDS].sum(axis=1)).pivot(index="step", columns="seed", values="seconds")
    ends = seconds.cumsum()
    first, last = ends.iloc[0].max(), ends.iloc[-1].min()
    # None if one seed finished before another had made its first step.
    moments = np.linspace(first, last, GRID) if first <= last else np.empty(0)
    return pd.DataFrame({seed: np.interp(moments, ends[seed], smooth[seed]) for seed in smooth}, index=moments)


def _learning(training: pd.DataFrame, config: Config, curves: Curves, unit: str) -> Figure:
    window = smoothing_window(config.training.steps)
    cells, skips, names = rows(config), nested_skips(config) or [0], nested_corrections(config)
    figure, axes = panels(len(cells), len(skips), (2.0, 1.6), sharex=True, sharey="row")
    for row, (title, size, dataset) in zip(axes, cells, strict=True):
        chosen = training[(training["size"] == size) & (training["dataset"] == dataset)]
        row[0].set_ylabel(f"{title}\nreward")
        for axis, skip in zip(row, skips, strict=True):
            if skip and axis in axes[0]:
                axis.set_title(f"skip {skip} %")
            series = [(of_model(chosen, name, skip), look_of(name)) for name in names]
            series.append((of_model(chosen, BASELINE_CORRECTION, 0), BASELINE))
            if all(table.empty for table, _ in series):
                not_run(axis)
            for place, (table, look) in enumerate(series):
                if not table.empty:
                    _curve(axis, curves(table, window), look, place, len(series))
    legend(figure, [("baseline ReFT", BASELINE), *((name, look_of(name)) for name in names)])
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(5, integer=curves is rewards_by_step))
    smoothed = f" (moving mean of {window} steps)" if window > 1 else ""
    figure.supxlabel(f"{unit}{smoothed}", fontsize=8)
    return figure


def _curve(axis: Axes, by_seed: pd.DataFrame, look: Look, place: int, series: int) -> None:
    axis.fill_between(by_seed.index, by_seed.min(axis=1), by_seed.max(axis=1), color=look.color, alpha=0.13, lw=0)
    markers = sparse_markers(len(by_seed), place, series)
    axis.plot(by_seed.index, by_seed.mean(axis=1), c=look.color, marker=look.marker, ls=look.linestyle, **markers)
