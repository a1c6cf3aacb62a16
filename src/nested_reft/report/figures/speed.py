"""Figures of speed: rollout speed-up against the share of layers skipped, and where a training step's time goes."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from nested_reft.config.experiment import Config, nested_skips
from nested_reft.report.figures import style
from nested_reft.report.statistics.comparisons import step_speedups

MEASURED = style.PALETTE[0]
# Part of a step -> (colour, hatch): light to dark, so that the order also reads in grey.
PARTS = {"rollout": ("#56B4E9", ""), "reward": ("#F0E442", "////"), "update": ("#5A5A5A", "")}
LEAST_SHARE = 0.08  # of the bar; a smaller rollout has no room for its number


def throughput(summary: pd.DataFrame, pairs: pd.DataFrame, config: Config) -> Figure:
    """Rollout speed-up against skip: one panel per size, every pair, the median with its interval, and the ideal."""
    skips = [0, *nested_skips(config)]
    figure, axes = style.panels(1, len(config.sizes), (2.9, 2.3), sharey=True, sharex=True)
    for axis, size in zip(axes[0], config.sizes, strict=True):
        table = summary[summary["size"] == size].sort_values("skip")
        axis.set_title(size)
        axis.set_xticks(skips)
        axis.axhline(1, color=style.INK, linewidth=0.8)
        if table.empty:
            style.not_run(axis)
            continue
        axis.plot(table["skip"], table["ideal_speedup"], color=style.IDEAL.color, linestyle=style.IDEAL.linestyle)
        of_size = pairs[pairs["size"] == size]
        axis.scatter(of_size["skip"], of_size["speedup"], s=14, color=MEASURED.color, alpha=0.25, lw=0)
        axis.vlines(table["skip"], table["speedup_low"], table["speedup_high"], color=MEASURED.color)
        axis.plot(table["skip"], table["speedup"], color=MEASURED.color, marker=MEASURED.marker)
        last = table.iloc[-1]
        for column, color in (("ideal_speedup", style.IDEAL.color), ("speedup", MEASURED.color)):
            where = "bottom" if last[column] == last[["speedup", "ideal_speedup"]].max() else "top"
            how: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": where, "color": color}
            axis.annotate(f"{last[column]:.2f}×", (last["skip"], last[column]), annotation_clip=False, **how)
        axis.set_xlim(right=1.22 * skips[-1] or 1)
    axes[0, 0].set_ylabel("rollout speed-up (tokens/s)")
    axes[0, 0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2f}×"))
    style.legend(figure, [("measured", MEASURED), ("ideal", style.IDEAL)])
    note = (
        "Faint points: pairs of full and nested model, in turn and alone on the machine "
        f"({style.number_of(summary['n'], 'pair')} of each skip); line: their median; bars: 95 % bootstrap interval. "
        "Ideal: the cost of all layers over that of the layers kept, embedding and LM head counted. At 0 %, the full "
        "model against itself shows the noise."
    )
    style.finish(figure, "layers skipped in the rollout (%)", note)
    return figure


def time(summary: pd.DataFrame, pairs: pd.DataFrame, config: Config) -> Figure:
    """A training step by part, stacked per skip, over the full model's step of the same pair; medians over pairs.

    Above the full model's bar its seconds, above each other bar the whole step's speed-up.
    """
    skips, speedups = [0, *nested_skips(config)], step_speedups(summary, config)
    figure, axes = style.panels(1, len(config.sizes), (2.9, 2.1), sharey=True)
    for axis, size in zip(axes[0], config.sizes, strict=True):
        chosen = pairs[pairs["size"] == size]
        axis.set_title(size)
        axis.set_xticks(range(len(skips)), [str(skip) for skip in skips])
        if chosen.empty:
            style.not_run(axis)
            continue
        # Of the same pair: between the jobs of two skips the machine's speed drifts by more than a skip saves.
        whole = chosen[[f"baseline_{part}_seconds" for part in PARTS]].sum(axis=1)
        full, nested = (
            chosen[[f"{side}_{part}_seconds" for part in PARTS]].set_axis(list(PARTS), axis=1).div(whole, axis=0)
            for side in ("baseline", "nested")
        )
        shares = pd.concat([full.median().to_frame(0).T, nested.groupby(chosen["skip"]).median()]).reindex(skips)
        tops = shares.cumsum(axis=1)
        for part, (color, hatch) in PARTS.items():
            bottom, height = tops[part] - shares[part], shares[part]
            axis.bar(range(len(skips)), height, 0.62, bottom, color=color, hatch=hatch, edgecolor=style.PAPER, lw=0.5)
        for place, skip in enumerate(skips):
            speedup, top, rollout = speedups.get((size, skip)), tops["update"].loc[skip], shares["rollout"].loc[skip]
            text = f"{speedup.estimate:.2f}×" if speedup else "not run" if skip else f"{whole.median():.2g} s"
            if rollout >= LEAST_SHARE * top:
                share = f"{100 * rollout / top:.0f} %"
                axis.text(place, rollout / 2, share, ha="center", va="center", fontsize=7, color="#101010")
            axis.text(place, top if top == top else 0, text, ha="center", va="bottom", fontsize=7)
        axis.margins(y=0.12)
    handles = [Patch(facecolor=c, hatch=h, edgecolor=style.PAPER, label=part) for part, (c, h) in PARTS.items()]
    style.legend(figure, handles[::-1])
    axes[0, 0].set_ylabel("time of a step\n(full model's: 1)")
    note = (
        f"Medians over pairs of steps on equal work ({style.number_of(summary['n'], 'pair')} of each skip), timed "
        "alone. In each bar: the rollout's share, which is all that skipping layers can save. Above: seconds of the "
        "full model's step, then the whole step's speed-up."
    )
    style.finish(figure, "layers skipped in the rollout (%)", note)
    return figure
