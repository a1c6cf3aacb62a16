"""The figure of what behaviour policies are worth: speed-up against effective sample size."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from nested_reft.config.experiment import Config
from nested_reft.report.figures import style
from nested_reft.report.statistics.behaviours import behaviour_cells
from nested_reft.report.statistics.nestability import choice_names, model_names

LEVELS = (1, 2, 4, 8)  # of the effective speed-up
TOP = 1.05


def behaviours(table: pd.DataFrame, config: Config) -> Figure:
    """Effective sample size against speed-up, one point per behaviour policy, with lines of equal worth: a row per
    size, a column per model.
    """
    options, names = config.nestability, model_names(config)
    if options is None or table.empty:
        return style.nothing_run()
    cells = behaviour_cells(table, config)
    figure, axes = style.panels(len(config.sizes), len(names), (3.4, 2.6), sharex=True, sharey=True)
    looks: dict[str, style.Look] = dict(zip(options.precisions, style.PALETTE, strict=False))
    fastest = max(found["speedup"].estimate for found in cells.values() if found)
    for row, size in zip(axes, config.sizes, strict=True):
        row[0].set_ylabel(f"{size}\neffective sample size" if len(config.sizes) > 1 else "effective sample size")
        for axis, (stage, name) in zip(row, names.items(), strict=True):
            axis.set_title(name)
            axis.set_xscale("log")
            axis.set_xlim(0.85, 1.25 * fastest)
            axis.set_ylim(0, TOP)
            speeds = np.geomspace(0.85, 1.25 * fastest, 100)
            for level in LEVELS:
                if level < 1.25 * fastest:
                    axis.plot(speeds, level / speeds, color=style.GREY, lw=0.7, ls="-" if level == 1 else ":", zorder=0)
                    axis.annotate(
                        f"{level}×",
                        (level / TOP, TOP),
                        color=style.GREY,
                        va="bottom",
                        ha="center",
                        annotation_clip=False,
                    )
            shown = {key: found for key, found in cells.items() if key[:2] == (size, stage) and found}
            if not shown:
                style.not_run(axis)
            for (_, _, skip, choice, precision), found in shown.items():
                look, speed, ess = looks[precision], found["speedup"], found["ess"]
                how = {"color": look.color, "lw": 1.1}
                if speed.exists:
                    axis.hlines(ess.estimate, speed.low, speed.high, **how)
                if ess.exists:
                    axis.vlines(speed.estimate, ess.low, ess.high, **how)
                axis.plot(speed.estimate, ess.estimate, marker=look.marker, color=look.color, ls="")
                several = len(choice_names(config)) > 1 and skip
                text = (f"{skip} %" if skip else "all layers") + (f", {choice}" if several else "")
                axis.annotate(text, (speed.estimate, ess.estimate), xytext=(5, -9), textcoords="offset points")
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
            axis.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}×" if value in (2, 3, 5) else ""))
    style.legend(figure, [(name, style.marker_only(look)) for name, look in looks.items()])
    note = (
        f"One point per behaviour policy, with the layers that it leaves out: mean over {options.batches} batches of "
        f"{options.problems_per_batch} problems × {options.completions_per_problem} completions; bars: 95 % t interval "
        "over batches. Grey: equal effective tokens per second, solid where they are the whole model's (1×); above and "
        "to the right is better."
    )
    style.finish(figure, "speed-up of the rollout over the whole model's", note)
    return figure
