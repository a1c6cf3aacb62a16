"""The table for people of how nestable each model is."""

from __future__ import annotations

import pandas as pd

from nested_reft.config.experiment import Config
from nested_reft.report.formatting import NOT_RUN, ratio, with_interval
from nested_reft.report.pages.page import Page
from nested_reft.report.statistics.comparisons import rollout_speedups
from nested_reft.report.statistics.nestability import full_model_reward, model_names, nestability_cells

SPEEDUP = "rollout speed-up"
COLUMNS = [
    *("size", "model", "layers from", "skip %", "left out", SPEEDUP, "KL", "ESS", "ESS, completions"),
    *("right (%)", "right, full model (%)"),
]
QUANTITIES = {"KL": ("kl_k1", "{:.2g}"), "ESS": ("ess", "{:.2f}"), "ESS, completions": ("ess_sequence", "{:.2f}")}


def nestability_table(nestability: pd.DataFrame, throughput: pd.DataFrame, config: Config) -> tuple[pd.DataFrame, Page]:
    """KL, effective sample size and reward of nested rollouts, one row per size, model, choice of layers and skip."""
    names, speedups, rows = model_names(config), rollout_speedups(throughput, config), []
    for (size, stage, choice, skip), found in nestability_cells(nestability, config).items():
        row = {"size": size, "model": names[stage], "layers from": choice, "skip %": str(skip)}
        row |= {"left out": str(found.num_skipped) if found else "", SPEEDUP: ratio(speedups[size, skip])}
        for column, (quantity, show) in QUANTITIES.items():
            row[column] = with_interval(found.intervals[quantity] if found else None, show.format)
        full = full_model_reward(nestability, size, stage)
        row["right (%)"] = _share(found.intervals["reward"].estimate if found else None)
        row["right, full model (%)"] = _share(full)
        rows.append(row)
    timed = "throughput" in config.parts
    table = pd.DataFrame(rows, columns=[column for column in COLUMNS if timed or column != SPEEDUP])
    title = "How nestable each model is"
    options = config.nestability
    if options is None or not names:
        return table, Page(title, (), "Not run: the configuration measures no nestability.")
    notes = (
        f"Models before reinforcement, on training problems: {options.batches} batches of {options.problems_per_batch} "
        f"problems × {options.completions_per_problem} completions, the same for all; layers that are drawn are drawn "
        "for each batch. KL(b ‖ π), k1, in nats per token: mean over the sampled tokens of log b - log π. ESS: "
        "effective sample size of a batch's tokens, and of its completions (1 is on-policy). Brackets: 95 % Student-t "
        "interval over batches (log scale for KL, logit for ESS). Right: share of the nested rollouts with the right "
        "answer, and of the full model's on the same problems."
    )
    if timed:
        notes += " Rollout speed-up: timed alone on the model that reinforcement starts from."
    return table, Page(title, (("", table),), notes)


def _share(value: float | None) -> str:
    return NOT_RUN if value is None else f"{100 * value:.1f}"
