"""The figure of learning: the training rollouts' reward, step by step."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nested_reft.config.experiment import Config, nested_corrections, nested_skips
from nested_reft.config.run import BASELINE_CORRECTION
from nested_reft.report.figures import style

MARKERS_PER_LINE = 5  # so that lines are told apart in grey


def reward(training: pd.DataFrame, config: Config) -> Figure:
    """Reward against step: rows are sizes (and data sets), columns skips; mean, and band of the seeds' range."""
    window = smoothing_window(config.training.steps)
    cells, skips, names = style.panel_rows(config), nested_skips(config) or [0], nested_corrections(config)
    figure, axes = style.panels(len(cells), len(skips), (2.0, 1.6), sharex=True, sharey="row")
    for row, (title, size, dataset) in zip(axes, cells, strict=True):
        chosen = training[(training["size"] == size) & (training["dataset"] == dataset)]
        row[0].set_ylabel(f"{title}\nreward of the rollouts")
        for axis, skip in zip(row, skips, strict=True):
            if skip and axis in axes[0]:
                axis.set_title(f"skip {skip} %")
            series = [(style.of_model(chosen, name, skip), style.look_of(name)) for name in names]
            series.append((style.of_model(chosen, BASELINE_CORRECTION, 0), style.BASELINE))
            if all(table.empty for table, _ in series):
                style.not_run(axis)
            for place, (table, look) in enumerate(series):
                if not table.empty:
                    _curve(axis, rewards_by_step(table, window), look, place / len(series))
    entries = [(f"{name}: behaviour policy", style.look_of(name)) for name in names]
    style.legend(figure, [("baseline ReFT: target", style.BASELINE), *entries])
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    seeds = style.number_of(training.groupby(["size", "dataset", "correction", "skip"])["seed"].nunique(), "seed")
    smoothed = f"moving mean of {window} steps; " if window > 1 else ""
    note = (
        f"Rewards of the rollouts that train: {smoothed}line: mean over {seeds}; band: lowest to highest seed. Nested "
        "rollouts are written, and so rewarded, without the skipped layers: they are not the target's accuracy."
    )
    style.finish(figure, "training step", note)
    return figure


def smoothing_window(steps: int) -> int:
    """Steps in the moving mean of the reward curves: an odd number near a tenth of the run, 1 for short runs."""
    return max(1, steps // 10 // 2 * 2 + 1)


def rewards_by_step(runs: pd.DataFrame, window: int) -> pd.DataFrame:
    """Moving mean of the reward (steps, seeds)."""
    by_seed = runs.pivot(index="step", columns="seed", values="reward")
    return by_seed.rolling(window, center=True, min_periods=1).mean()


def _curve(axis: Axes, by_seed: pd.DataFrame, look: style.Look, begin: float) -> None:
    """A run's line with a few markers, the first after the share `begin` of the distance between two of them."""
    axis.fill_between(by_seed.index, by_seed.min(axis=1), by_seed.max(axis=1), color=look.color, alpha=0.13, lw=0)
    apart = max(1, len(by_seed) // MARKERS_PER_LINE)
    markers: dict[str, Any] = {"markevery": (int(begin * apart), apart), "markersize": 3.5}
    axis.plot(by_seed.index, by_seed.mean(axis=1), c=look.color, marker=look.marker, ls=look.linestyle, **markers)
