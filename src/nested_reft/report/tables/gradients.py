"""The tables of bias and variance for people: of sampled gradients, and exact ones of a very small model."""

from __future__ import annotations

from itertools import product

import pandas as pd

from nested_reft.config.experiment import Config, nested_skips
from nested_reft.report.claims.judge import gradient_cells
from nested_reft.report.formatting import (
    NO_NESTED_RUNS,
    NOT_RESOLVED,
    NOT_RUN,
    ratio,
    relative_bias,
)
from nested_reft.report.pages.page import Page
from nested_reft.report.statistics.comparisons import gradient_directions, gradient_variances
from nested_reft.report.statistics.gradients import Bias
from nested_reft.report.statistics.intervals import Interval

ESTIMATOR = ["correction", "params", "baseline", "std", "normalisation"]
# In double precision, a bias of zero is below this.
ZERO = 1e-10
COLUMNS = [
    *("size", "skip %", "correction", "relative bias (%)", "with noise (%)", "noise alone (%)", "scale", "cosine"),
    *("variance ratio", "batches", "verdict"),
]


def gradient_bias_table(gradients: pd.DataFrame, config: Config) -> tuple[pd.DataFrame, Page]:
    """Bias and variance of the corrected gradient estimates, one row per size, skip and correction."""
    judged, variances = gradient_cells(gradients, config)[0], gradient_variances(gradients, config)
    directions = {name: gradient_directions(gradients, config, name) for name in ("scale", "cosine")}
    margin = config.gradients.bias_margin
    with_noise = gradients.set_index(["size", "correction", "skip"])["bias"]
    rows = []
    # By skip before correction: corrections are compared at the same skip.
    for size, skip, correction in product(config.sizes, nested_skips(config), config.gradients.corrections):
        key = (size, correction, skip)
        cell, row = judged[key], dict.fromkeys(COLUMNS, NOT_RUN)
        row |= {"size": size, "skip %": str(skip), "correction": correction, "batches": "0"}
        if isinstance(bias := cell.found, Bias):
            undecided = NOT_RESOLVED if cell.reason.startswith(NOT_RESOLVED) else "inconclusive"
            row |= {
                "relative bias (%)": relative_bias(bias, margin, _percent),
                "with noise (%)": _percent(with_noise[key]),
                "noise alone (%)": _percent(bias.noise),
                **{name: _direction(found[key]) for name, found in directions.items()},
                "variance ratio": ratio(variances[key]),
                "batches": str(bias.n),
                "verdict": {"passes": "unbiased", "fails": "biased"}.get(cell.verdict or "", undecided),
            }
        rows.append(row)
    table = pd.DataFrame(rows, columns=COLUMNS)
    title = "Bias and variance of the gradient estimates"
    if table.empty:
        return table, Page(title, (), NO_NESTED_RUNS)
    settings = config.gradients
    notes = (
        "Gradients of the model that reinforcement starts from. One batch has "
        f"{settings.problems_per_batch} problems × {settings.completions_per_problem} completions and its own draw of "
        "layers; the on-policy estimates are of the same problems. All have a leave-one-out baseline, no division by "
        "the standard deviation and the same factor for every token, so that nothing but the correction differs. "
        "Relative bias: norm of the difference between the expected gradients, over the norm of the on-policy one, "
        "with the noise taken out (U-statistics). If that leaves a negative square there is no estimate, only an upper "
        "bound (≤). With noise: the same from plain means. Noise "
        "alone: from plain means of two on-policy sets, which have no bias. Scale: length of the expected gradient "
        "along the on-policy one, over the latter's, which an optimizer that normalises gradients, such as AdamW, "
        "hardly sees. Cosine: between the two. "
        "Variance ratio: trace of the covariance of a batch's estimate over the on-policy one's. Brackets: 95 % "
        "jackknife interval over batches. Unbiased: the "
        f"interval of the relative bias lies within {100 * settings.bias_margin:g} %. Biased: it lies wholly above, "
        "also after Holm's correction for the number of a correction's cells. "
        "Not resolved: neither, and the noise alone is above that margin, or hides the gradient itself; the interval "
        "is given without an estimate. Inconclusive: neither, though the noise is within the margin. More batches "
        "could settle both."
    )
    return table, Page(title, (("", table),), notes)


def exact_bias_table(exact: pd.DataFrame, config: Config) -> tuple[pd.DataFrame, Page]:
    """Exact bias and variance, one row per estimator: for layers drawn at random, and the worst of single draws."""
    drawn = exact["skipped"] == "drawn"
    counts = sorted(exact.loc[drawn, "num_skipped"].unique()) or [1, 2]
    of = {f"{count} drawn": drawn & (exact["num_skipped"] == count) for count in counts}
    of["worst layers"] = ~drawn & (exact["num_skipped"] > 0)
    columns = {"bias, on-policy": ("bias", exact["num_skipped"] == 0)}
    columns |= {f"bias, {name}": ("bias", rows) for name, rows in of.items()}
    columns |= {f"variance ratio, {name}": ("variance_ratio", rows) for name, rows in of.items()}
    found = []
    for estimator, group in exact.groupby(ESTIMATOR, sort=False):
        row = dict(zip(ESTIMATOR, map(str, estimator), strict=True))
        row["std"] = "yes" if group["std"].iloc[0] else "no"
        row |= {name: _exact(group.loc[rows.loc[group.index], column]) for name, (column, rows) in columns.items()}
        # On-policy all weights are 1, so this is computed for one correction only.
        row["bias, on-policy"] = row["bias, on-policy"].replace(NOT_RUN, "")
        found.append(row)
    table = pd.DataFrame(found, columns=[*ESTIMATOR, *columns])
    title = "Exact bias and variance"
    if table.empty:
        return table, Page(title, (), "Not run.")
    notes = (
        "A model small enough to enumerate every completion, so that nothing is sampled and there is no interval. "
        "Bias: norm of the difference between the estimator's expectation and the gradient of the expected reward, "
        "over the norm of the latter. On-policy: with no layer left out, where every weight is 1; given once for "
        "estimators that differ in the weight alone. Drawn: so many layers are left out, drawn for each batch of 16 "
        "problems, as training draws them. Worst layers: the largest value where the same layers are always left out. "
        f"Variance ratio: over the on-policy estimator's. A bias below {ZERO:g} is 0 in double precision."
    )
    return table, Page(title, (("", table),), notes)


def _exact(values: pd.Series) -> str:
    """The largest value as a text; only a bias is so small that it is printed as zero."""
    if not values.notna().any():
        return NOT_RUN
    value = float(values.max())
    return "0" if value < ZERO else f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _direction(found: Interval | None) -> str:
    return NOT_RESOLVED if found and not found.exists else ratio(found)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if pd.notna(value) else NOT_RESOLVED
