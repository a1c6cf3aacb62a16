"""Figures of accuracy: every benchmark and model with every seed, and the difference from the baseline."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nested_reft.config.experiment import Config, nested_cells, nested_corrections, nested_skips, stages
from nested_reft.config.run import BASELINE_CORRECTION, STAGES
from nested_reft.report.claims.judge import parity_cells
from nested_reft.report.figures import style
from nested_reft.report.statistics.comparisons import accuracy_of, benchmark_means
from nested_reft.report.statistics.intervals import CellVerdict

BESIDE = 0.12  # distance of the seeds from their mean; 1 is the distance between skips


def accuracy(runs: pd.DataFrame, config: Config) -> Figure:
    """Headline accuracy against skip: rows are sizes (and data sets), columns benchmarks and, last, their mean."""
    metric, skips, names = config.evaluation.headline, [0, *nested_skips(config)], nested_corrections(config)
    columns = [*config.benchmarks, *(["mean"] if len(config.benchmarks) > 1 else [])]
    offsets = dict(zip(names, style.dodge(len(names), 0.75), strict=True))
    of_metric = runs[runs["metric"] == metric]
    scores = pd.concat([of_metric, benchmark_means(runs, config, metric).assign(benchmark="mean")])
    cells = style.panel_rows(config)
    figure, axes = style.panels(len(cells), len(columns), (1.55, 1.75), sharex=True, sharey="row")
    for row, (title, size, dataset) in zip(axes, cells, strict=True):
        row[0].set_ylabel(f"{title}\naccuracy (%)")
        for axis, benchmark in zip(row, columns, strict=True):
            if axis in axes[0]:
                axis.set_title(benchmark, fontweight="bold" if benchmark == "mean" else "normal")
            style.skip_groups(axis, skips)
            panel = scores[(scores["size"] == size) & (scores["benchmark"] == benchmark)]
            for stage in stages(config):
                for start in panel.loc[panel["correction"] == stage, "value"]:
                    look = style.STAGE_LOOKS[stage]
                    axis.axhline(100 * start, color=look.color, linestyle=look.linestyle, lw=1.2)
            tuned = panel[panel["dataset"] == dataset]
            if tuned.empty:
                style.not_run(axis)
                continue
            baseline = style.of_model(tuned, BASELINE_CORRECTION, 0)
            if len(baseline):
                look = style.BASELINE
                axis.axhline(100 * baseline["value"].mean(), color=look.color, linestyle=look.linestyle, lw=0.8)
            _seeds_and_mean(axis, 0.0, baseline, style.BASELINE)
            for name in names:
                for place, skip in enumerate(skips[1:], start=1):
                    model = style.of_model(tuned, name, skip)
                    _seeds_and_mean(axis, place + offsets[name], model, style.look_of(name))
    entries = [(name, style.marker_only(style.look_of(name))) for name in names]
    entries += [(STAGES[stage], style.STAGE_LOOKS[stage]) for stage in stages(config)]
    style.legend(figure, [("baseline ReFT", style.BASELINE), *entries])
    tuned = of_metric.dropna(subset=["seed"])  # the models before reinforcement have none
    seeds = style.number_of(tuned.groupby(["size", "dataset", "correction", "skip"])["seed"].nunique(), "seed")
    note = (
        f"{metric.capitalize()} answers. Small points: seeds ({seeds}); bars: 95 % interval over seeds and problems "
        f"({style.number_of(of_metric['n'], 'problem')} of each benchmark). Models are compared on identical problems: "
        "the parity figure says what differs."
    )
    style.finish(figure, "layers skipped in the rollout (%)", note)
    return figure


def _seeds_and_mean(axis: Axes, x: float, model: pd.DataFrame, look: style.Look) -> None:
    """In percent: every seed faint, left of them the mean's marker, and a bar for its interval if there is one."""
    interval = accuracy_of(model)
    if interval is None:
        return
    axis.scatter(np.full(len(model), x + BESIDE), 100 * model["value"], s=5, color=look.color, alpha=0.6, lw=0)
    if interval.exists:
        axis.vlines(x, 100 * interval.low, 100 * interval.high, color=look.color, lw=0.8, alpha=0.7)
    axis.plot(x, 100 * interval.estimate, marker=look.marker, color=look.color, markersize=3.5, ls="")


def parity_plot(runs: pd.DataFrame, config: Config) -> Figure:
    """Nested minus baseline accuracy with its interval against the margin: rows are sizes (and data sets), columns
    benchmarks.
    """
    metric, margin = config.evaluation.headline, config.evaluation.parity_margin
    found, rows = parity_cells(runs, config), style.panel_rows(config)
    cells = sorted(nested_cells(config), key=lambda cell: cell[1])
    places = {
        cell: place + nested_skips(config).index(cell[1]) for place, cell in enumerate(cells)
    }  # gaps between skips
    size_of_panel = (1.45 if len(config.benchmarks) > 1 else 3.0, 0.16 * max(places.values(), default=1) + 0.5)
    figure, axes = style.panels(len(rows), len(config.benchmarks), size_of_panel, sharex=True, sharey=True)
    for row, (title, size, dataset) in zip(axes, rows, strict=True):
        row[0].set_ylabel(title)
        for axis, benchmark in zip(row, config.benchmarks, strict=True):
            if axis in axes[0]:
                axis.set_title(benchmark)
            axis.grid(False)
            style.margin_band(axis, margin)
            if not places:
                style.not_run(axis)
            for (name, skip), y in places.items():
                cell = found[size, dataset, benchmark, name, skip]
                style.forest_row(axis, y, cell.found, style.look_of(name), cell.verdict, scale=100)
    first = axes[0, 0]
    first.set_yticks(list(places.values()), [f"{name}, {skip} %" for name, skip in places])
    first.set_ylim(max(places.values(), default=0) + 0.8, -0.8)
    words: dict[CellVerdict, str] = {"passes": "equivalent", "undecided": "undecided", "fails": "beyond the margin"}
    words |= {"not assessable": "not assessable"}
    drawn = {cell.verdict for cell in found.values()}
    style.legend(
        figure,
        [
            style.band(style.MARGIN, f"within ±{100 * margin:g} points"),
            *style.verdict_entries({verdict: word for verdict, word in words.items() if verdict in drawn}),
        ],
    )
    seeds = style.number_of((cell.found.n for cell in found.values() if cell.found), "seed")
    note = (
        f"Each benchmark by itself, paired by seed on identical problems. Small points: seeds ({seeds}); bars: 95 % t "
        "interval over seeds (artanh scale)."
    )
    if "not assessable" in drawn:
        note += " Not assessable: the baseline is not shown to learn enough for a difference to mean anything."
    style.finish(figure, f"{metric} accuracy, nested minus baseline (points)", note)
    return figure
