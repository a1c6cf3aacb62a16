"""Figures of speed: rollout speed-up against the share of layers skipped, and where a training step's time goes."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from nested_reft.config.experiment import Config, nested_skips
from nested_reft.report.figures.style import BASELINE, IDEAL, dodge, look_of, not_run, panels
from nested_reft.report.statistics.comparisons import step_speedups

# Part of a step -> (colour, hatch): light to dark, so that the order also reads in grey.
PARTS = {"rollout": ("#56B4E9", ""), "reward": ("#F0E442", "////"), "update": ("#5A5A5A", "")}
LEAST_SHARE = 0.08  # of the bar; a smaller rollout has no room for its number


def throughput(summary: pd.DataFrame, pairs: pd.DataFrame, config: Config) -> Figure:
    """Rollout speed-up against skip: one panel per size, every pair, the median with its interval, and the ideal."""
    skips = [0, *nested_skips(config)]
    figure, axes = panels(1, len(config.sizes), (2.6, 2.3), sharey=True, sharex=True)
    for axis, size in zip(axes[0], config.sizes, strict=True):
        table = summary[summary["size"] == size].sort_values("skip")
        axis.set_title(size)
        axis.set_xticks(skips)
        axis.axhline(1, color=BASELINE.color, linewidth=0.8)
        if table.empty:
            not_run(axis)
            continue
        axis.plot(table["skip"], table["ideal_speedup"], color=IDEAL.color, linestyle=IDEAL.linestyle)
        spread = 0.25 * min((later - earlier for earlier, later in pairwise(skips)), default=1)
        for skip, group in pairs[pairs["size"] == size].groupby("skip"):
            axis.scatter(
                skip + dodge(len(group), spread), group["speedup"], s=6, color=look_of("base").color, alpha=0.35, lw=0
            )
        axis.vlines(table["skip"], table["speedup_low"], table["speedup_high"], color=look_of("base").color)
        axis.plot(table["skip"], table["speedup"], color=look_of("base").color, marker="o")
        last = table.iloc[-1]
        for text, column, look in (("ideal", "ideal_speedup", IDEAL), ("measured", "speedup", look_of("base"))):
            other = "speedup" if column == "ideal_speedup" else "ideal_speedup"
            vertical = "bottom" if last[column] >= last[other] else "top"
            axis.annotate(
                f"{text} {last[column]:.2f}×",
                (last["skip"], last[column]),
                xytext=(7, 2 if vertical == "bottom" else -3),
                textcoords="offset points",
                va=vertical,
                color=look.color,
                annotation_clip=False,
            )
    axes[0, 0].set_ylabel("rollout speed-up (tokens/s)")
    axes[0, 0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2f}×"))
    figure.supxlabel("layers skipped in the rollout (%)", fontsize=8)
    return figure


def time(summary: pd.DataFrame, pairs: pd.DataFrame, config: Config) -> Figure:
    """A training step by part, stacked per skip, over the full model's step of the same pair; medians over pairs.

    Above the full model's bar its seconds, above each other bar the whole step's speed-up.
    """
    skips = [0, *nested_skips(config)]
    speedups = step_speedups(summary, config)
    figure, axes = panels(1, len(config.sizes), (2.6, 2.1), sharey=True)
    for axis, size in zip(axes[0], config.sizes, strict=True):
        chosen = pairs[pairs["size"] == size]
        axis.set_title(size)
        axis.set_xticks(range(len(skips)), [str(skip) for skip in skips])
        if chosen.empty:
            not_run(axis)
            continue
        # Of the same pair: between the jobs of two skips the machine's speed drifts by more than a skip saves.
        whole = chosen[[f"baseline_{part}_seconds" for part in PARTS]].sum(axis=1)
        full, nested = (
            chosen[[f"{side}_{part}_seconds" for part in PARTS]].set_axis(list(PARTS), axis=1).div(whole, axis=0)
            for side in ("baseline", "nested")
        )
        shares = pd.concat([full.median().to_frame(0).T, nested.groupby(chosen["skip"]).median()]).reindex(skips)
        bottom = shares["rollout"] * 0
        for part, (color, hatch) in PARTS.items():
            height = shares[part]
            axis.bar(range(len(skips)), height, 0.62, bottom, color=color, hatch=hatch, edgecolor="white", lw=0.5)
            bottom = bottom + height
        for place, skip in enumerate(skips):
            speedup = speedups[size, skip] if skip else None
            text = f"{speedup.estimate:.2f}×" if speedup else "not run" if skip else f"{whole.median():.2g} s"
            top = bottom.loc[skip]
            rollout = shares["rollout"].loc[skip]
            if rollout >= LEAST_SHARE * top:
                share = f"{100 * rollout / top:.0f} %"
                axis.text(place, rollout / 2, share, ha="center", va="center", fontsize=7)
            axis.text(place, top if top == top else 0, text, ha="center", va="bottom", fontsize=7)
        axis.margins(y=0.12)
    handles = [Patch(facecolor=c, hatch=h, edgecolor="white", label=part) for part, (c, h) in PARTS.items()]
    figure.legend(handles=handles[::-1], loc="outside upper center", ncols=3)
    figure.supylabel("time of a training step (full model: 1)", fontsize=8)
    figure.supxlabel("layers skipped in the rollout (%)", fontsize=8)
    return figure
