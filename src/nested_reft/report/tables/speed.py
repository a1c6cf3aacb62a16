"""The table of speed-ups: of the rollout, and of the whole training step."""

from __future__ import annotations

import pandas as pd

from nested_reft.config.experiment import Config
from nested_reft.report.formatting import NOT_RUN, ratio
from nested_reft.report.pages.page import Page
from nested_reft.report.statistics.comparisons import rollout_speedups, step_speedups


def speedup_table(throughput: pd.DataFrame, step_speed: pd.DataFrame, config: Config) -> tuple[pd.DataFrame, Page]:
    """Rollout and whole-step speed-up over the full model, one row per size and skip."""
    rollouts, steps = rollout_speedups(throughput, config), step_speedups(step_speed, config)
    rows = []
    for (size, skip), rollout in rollouts.items():
        measured = throughput[(throughput["size"] == size) & (throughput["skip"] == skip)]
        row = {"size": size, "skip %": str(skip)}
        row["rollout tokens/s"] = f"{measured['tokens_per_s'].iloc[0]:,.0f}" if rollout else NOT_RUN
        row["rollout speed-up"] = ratio(rollout)
        row["ideal"] = f"{measured['ideal_speedup'].iloc[0]:.2f}" if rollout else NOT_RUN
        row["pairs"] = str(rollout.n) if rollout else ""
        row["step speed-up"] = ratio(steps[size, skip]) if skip else "1"
        rows.append(row)
    table = pd.DataFrame(rows)
    notes = (
        "Skip 0 pairs the full model with itself and shows the noise. "
        "Rollouts and whole training steps are timed alone on the machine, full and nested model in turn, on equal "
        "work; median over pairs with its 95 % bootstrap interval. Ideal, of the rollout: the cost of all layers over "
        "that of the layers kept, embedding and LM head counted."
    )
    return table, Page("Speed", (("", table),), notes)
