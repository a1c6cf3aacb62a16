"""The table of bias and variance problem by problem, from distinct completions."""

from __future__ import annotations

from itertools import product

import pandas as pd

from nested_reft.config.experiment import Config, nested_skips
from nested_reft.report.formatting import NO_NESTED_RUNS, NOT_RESOLVED, NOT_RUN, percent, ratio
from nested_reft.report.pages.page import Page
from nested_reft.report.statistics.comparisons import completion_gradients
from nested_reft.report.statistics.intervals import Interval

COLUMNS = [
    *("size", "skip %", "correction", "relative bias (%)", "scale", "cosine", "variance ratio"),
    *("seen, π (%)", "seen, b (%)", "unseen at most (%)", "distinct", "problems"),
]


def completion_gradients_table(completions: pd.DataFrame, config: Config) -> tuple[pd.DataFrame, Page]:
    """Bias and variance of the corrected gradients of each problem, one row per size, skip and correction."""
    cells = {name: completion_gradients(completions, config, name) for name in ("bias", "scale", "cosine")}
    cells["variance_ratio"] = completion_gradients(completions, config, "variance_ratio")
    facts = completions.set_index(["size", "correction", "skip"]).to_dict("index")
    rows = []
    # By skip before correction: corrections are compared at the same skip.
    for size, skip, correction in product(config.sizes, nested_skips(config), config.gradients.corrections):
        key = (size, correction, skip)
        row = {**dict.fromkeys(COLUMNS, NOT_RUN), "size": size, "skip %": str(skip), "correction": correction}
        if key in facts:
            fact = facts[key]
            row |= {
                "relative bias (%)": _bias(cells["bias"][key]),
                "scale": ratio(cells["scale"][key]),
                "cosine": ratio(cells["cosine"][key]),
                "variance ratio": ratio(cells["variance_ratio"][key]),
                "seen, π (%)": _whole(fact["covered_target"]),
                "seen, b (%)": _whole(fact["covered_behavior"]),
                "unseen at most (%)": _whole(fact["unseen_bound"]),
                "distinct": f"{fact['distinct']:.1f}",
                "problems": f"{fact['n']:g}",
            }
        rows.append(row)
    table = pd.DataFrame(rows, columns=COLUMNS)
    title = "Bias and variance by distinct completions"
    if config.gradients.by_completion is None:
        return table, Page(title, (), "Not run: the configuration has no gradients.by_completion.")
    if table.empty:
        return table, Page(title, (), NO_NESTED_RUNS)
    notes = (
        "Gradients of the model that reinforcement starts from, problem by problem, each with its own draw of layers. "
        f"Two pairs of pools of {config.gradients.by_completion.pool} completions, of the model π and of the nested "
        "view b, show the distinct completions (mean number of a pair); each counts with its probability over its "
        "chance of being seen. The expected gradients on-policy and under b have the advantage of a reward minus the "
        "expected reward of the policy that samples, which is that of a leave-one-out baseline. Products of the two "
        "pairs have no bias from noise. Relative bias: root of the sum over problems of the squared distance between "
        "the expected gradients, over that of the squared on-policy ones; ≤ if a negative square leaves no estimate. "
        "Scale: length along the on-policy gradient, over its length. Cosine: between the two, over all problems. "
        "Variance ratio: variance of a single completion's estimate of its problem's gradient, with its draw of "
        "layers, over the on-policy one's. Seen: probability of the completions in a pair of pools, mean over "
        "problems. What was not seen is in the estimates by the weights, and in their intervals as noise; without the "
        "weights it could be at most the share of the on-policy norm in the column unseen (by Cauchy and Schwarz). "
        "Brackets: 95 % jackknife interval over problems."
    )
    return table, Page(title, (("", table),), notes)


def _bias(found: Interval | None) -> str:
    if found and found.exists and pd.isna(found.estimate):
        return f"≤ {100 * found.high:.1f}"
    return percent(found)


def _whole(value: float) -> str:
    if pd.isna(value):
        return NOT_RESOLVED
    return f"{100 * value:.0f}" if value < 100 else f"{100 * value:.0e}"
