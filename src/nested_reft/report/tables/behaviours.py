"""The table for people of what behaviour policies are worth."""

from __future__ import annotations

import pandas as pd

from nested_reft.config.experiment import Config
from nested_reft.report.formatting import NOT_RUN, with_interval
from nested_reft.report.pages.page import Page
from nested_reft.report.statistics.behaviours import behaviour_cells
from nested_reft.report.statistics.nestability import model_names

KEY = ["size", "model", "skip %", "layers from", "precision"]
QUANTITIES = {
    "speed-up": ("speedup", "{:.2f}×"),
    "ESS": ("ess", "{:.3g}"),
    "ESS, completions": ("ess_sequence", "{:.2g}"),
    "effective speed-up": ("effective", "{:.2f}×"),
}


def behaviours_table(behaviours: pd.DataFrame, config: Config) -> tuple[pd.DataFrame, Page]:
    """Speed, effective sample size and their product, one row per size, model, skip, choice of layers and precision."""
    title, columns = "What behaviour policies are worth", [*KEY, *QUANTITIES, "right (%)"]
    options, names, rows = config.nestability, model_names(config), []
    if options is None or not options.precisions:
        return pd.DataFrame(columns=columns), Page(title, (), "Not run: the configuration times no behaviour policies.")
    for (size, stage, skip, choice, precision), found in behaviour_cells(behaviours, config).items():
        row = {"size": size, "model": names[stage], "skip %": str(skip), "layers from": choice if skip else "all"}
        row["precision"] = precision
        for column, (name, form) in QUANTITIES.items():
            row[column] = with_interval(found[name] if found else None, form.format)
        row["right (%)"] = f"{100 * found['reward'].estimate:.1f}" if found else NOT_RUN
        rows.append(row)
    table = pd.DataFrame(rows, columns=columns)
    notes = (
        f"{options.batches} batches of {options.problems_per_batch} problems × {options.completions_per_problem} "
        f"completions, the same for all. Speed-up: tokens/s of the rollout over those of the whole model in "
        f"{config.training.rollout_precision or config.training.dtype}, in pairs, alone on the machine. ESS: effective "
        "sample size of a batch's tokens, and of its completions (1 is on-policy). Effective speed-up: speed-up times "
        "ESS of the tokens; above 1×, the rollouts bring more effective tokens per second than the whole model's. "
        "Brackets: 95 % Student-t interval over batches (log scale; logit for ESS). Right: share of right answers."
    )
    return table, Page(title, (("", table),), notes)
