"""Figures of accuracy: every benchmark and model with every seed, and the difference from the baseline."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nested_reft.config.experiment import Config, nested_cells, nested_corrections, nested_skips, stages
from nested_reft.config.run import BASELINE_CORRECTION, STAGES
from nested_reft.report.figures.style import (
    BASELINE,
    MARGIN,
    PRETRAINED,
    STAGE_LOOKS,
    dodge,
    legend,
    look_of,
    marker_only,
    not_run,
    of_model,
    panels,
    rows,
    seeds_and_mean,
)
from nested_reft.report.statistics.comparisons import benchmark_means, parity, seed_differences
from nested_reft.report.statistics.intervals import equivalence

NARROWEST = 2.0  # points of accuracy that a panel shows
BESIDE = 0.12  # distance of the seeds from their mean; 1 is the distance between skips


def accuracy(runs: pd.DataFrame, config: Config) -> Figure:
    """Headline accuracy against skip: rows are sizes (and data sets), columns benchmarks and, last, their mean."""
    metric = config.evaluation.headline
    columns = [*config.benchmarks, *(["mean"] if len(config.benchmarks) > 1 else [])]
    skips = nested_skips(config)
    places = {skip: place for place, skip in enumerate([0, *skips])}
    offsets = dict(zip(config.corrections, dodge(len(config.corrections), 0.75), strict=True))
    scores = pd.concat([runs[runs["metric"] == metric], benchmark_means(runs, config, metric).assign(benchmark="mean")])
    cells = rows(config)
    figure, axes = panels(len(cells), len(columns), (1.55, 1.75), sharex=True, sharey="row")
    for row, (title, size, dataset) in zip(axes, cells, strict=True):
        row[0].set_ylabel(f"{title}\naccuracy (%)")
        for axis, benchmark in zip(row, columns, strict=True):
            if axis in axes[0]:
                axis.set_title(benchmark, fontweight="bold" if benchmark == "mean" else "normal")
            axis.set_xticks(list(places.values()), [str(skip) for skip in places])
            axis.set_xlim(-0.6, len(skips) + 0.6)
            panel = scores[(scores["size"] == size) & (scores["benchmark"] == benchmark)]
            for stage in stages(config):
                start = panel.loc[panel["correction"] == stage, "value"].to_numpy(dtype=np.float64)
                if len(start):
                    look = STAGE_LOOKS[stage]
                    axis.axhline(100 * start[0], color=look.color, linestyle=look.linestyle, lw=1.2)
            tuned = panel[panel["dataset"] == dataset]
            baseline = of_model(tuned, BASELINE_CORRECTION, 0)
            if len(baseline):
                axis.axhline(100 * baseline["value"].mean(), color=BASELINE.color, linestyle=BASELINE.linestyle, lw=0.8)
            if tuned.empty:
                not_run(axis)
            seeds_and_mean(axis, 0.0, baseline, BASELINE, BESIDE)
            for correction in config.corrections:
                for skip in skips:
                    x = places[skip] + offsets[correction]
                    seeds_and_mean(axis, x, of_model(tuned, correction, skip), look_of(correction), BESIDE)
    for row in axes:
        low, high = row[0].get_ylim()
        if high - low < NARROWEST:  # as if nothing is ever right: rounding would fill the panel
            row[0].set_ylim((low + high - NARROWEST) / 2, (low + high + NARROWEST) / 2)
    entries = [
        ("baseline ReFT", BASELINE),
        *((name, marker_only(look_of(name))) for name in nested_corrections(config)),
    ]
    legend(figure, [*entries, *((STAGES[stage], STAGE_LOOKS[stage]) for stage in stages(config))])
    figure.supxlabel("layers skipped in the rollout (%)", fontsize=8)
    return figure


def parity_plot(runs: pd.DataFrame, config: Config) -> Figure:
    """Nested minus baseline accuracy with its interval against the margin: rows are data sets, columns sizes."""
    metric, margin = config.evaluation.headline, config.evaluation.parity_margin
    found, by_seed = parity(runs, config, metric), seed_differences(runs, config, metric)
    places: dict[tuple[str, int], int] = {}
    for group, skip in enumerate(nested_skips(config)):  # with a gap between skips
        for name, _ in (cell for cell in nested_cells(config) if cell[1] == skip):
            places[name, skip] = len(places) + group
    figure, axes = panels(
        len(config.datasets),
        len(config.sizes),
        (3.0, 0.16 * max(places.values(), default=1) + 0.8),
        sharex=True,
        sharey=True,
    )
    for row, dataset in zip(axes, config.datasets, strict=True):
        for axis, size in zip(row, config.sizes, strict=True):
            axis.set_title(size if len(config.datasets) == 1 else f"{size}, {dataset}")
            axis.axvspan(-100 * margin, 100 * margin, color=MARGIN, lw=0)
            axis.axvline(0, color=BASELINE.color, lw=0.8)
            axis.grid(False)
            if not places:
                not_run(axis)
            for (name, skip), y in places.items():
                interval, look = found[size, dataset, name, skip], look_of(name)
                if interval is None:
                    axis.text(0, y, "not run", ha="center", va="center", fontsize=7, color=PRETRAINED.color)
                    continue
                seeds = by_seed[size, dataset, name, skip]
                if seeds is not None:
                    axis.scatter(100 * seeds, np.full(len(seeds), y + 0.3), s=5, color=look.color, alpha=0.6, lw=0)
                same = equivalence(interval.low, interval.high, margin) == "equivalent"
                if interval.exists:
                    axis.hlines(y, 100 * interval.low, 100 * interval.high, color=look.color)
                axis.plot(
                    100 * interval.estimate,
                    y,
                    marker=look.marker,
                    color=look.color,
                    mfc=look.color if same else "white",
                )
    first = axes[0, 0]
    first.set_yticks(list(places.values()), [f"{name}, {skip} %" for name, skip in places])
    first.set_ylim(max(places.values(), default=0) + 0.8, -0.8)
    figure.supxlabel(f"{metric} accuracy, nested minus baseline (points)", fontsize=8)
    return figure
