"""The table for people of the ways to choose the skipped layers."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from nested_reft.config.experiment import Config
from nested_reft.report.formatting import NOT_RUN, percent, points
from nested_reft.report.pages.page import Page
from nested_reft.report.statistics.comparisons import (
    CHOICE,
    accuracy_of,
    benchmark_means,
    compared_strategies,
    strategy_contrasts,
    strategy_parity,
)


def layer_choice_table(strategies: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Accuracy and off-policyness, one row per size, data set and way to choose layers, after the baseline's."""
    compared, skip = compared_strategies(config), config.layer_choice.skip
    reference = f"difference to {config.layer_choice.strategies[0]}"
    against_baseline, against_first = strategy_parity(strategies, config), strategy_contrasts(strategies, config)
    means = benchmark_means(strategies, config, config.evaluation.headline, CHOICE)
    cells = [("baseline ReFT", "uniform", 0), *((name, name, skip) for name in compared)] if compared else []
    rows = []
    for size in config.sizes:
        for dataset in config.datasets:
            for title, strategy, at_skip in cells:
                cell = {"size": size, "dataset": dataset, "strategy": strategy, "skip": at_skip}
                off_policyness = _cell(strategies[strategies["benchmark"] == ""], cell)
                is_baseline, is_first = not at_skip, strategy == compared[0]
                key = (size, dataset, strategy)
                rows.append(
                    {
                        "size": size,
                        "dataset": dataset,
                        "strategy": title,
                        "accuracy": percent(accuracy_of(_cell(means, cell))),
                        "difference to baseline": "" if is_baseline else points(against_baseline[key]),
                        reference: "" if is_baseline or is_first else points(against_first[key]),
                        "KL": _mean(off_policyness, "kl_k3"),
                        "ESS": _mean(off_policyness, "ess"),
                    }
                )
    columns = ["size", "dataset", "strategy", "accuracy", "difference to baseline", reference, "KL", "ESS"]
    return pd.DataFrame(rows, columns=columns)


def layer_choice_page(table: pd.DataFrame, config: Config) -> Page:
    """The table of layer choices with its notes."""
    title = "Ways to choose the skipped layers"
    if table.empty:
        return Page(title, (), "Not run: the configuration names one way to choose layers.")
    choice, metric = config.layer_choice, config.evaluation.headline
    notes = (
        f"Correction '{choice.correction}' at skip {choice.skip} %. Accuracy: {metric}, in percent, mean over "
        "benchmarks and seeds. Brackets: 95 % interval over seeds and problems (Wilson's score interval). Differences "
        "in percentage points, paired by seed on identical problems. Brackets: 95 % Student-t interval over seeds "
        "(artanh scale); the problems do not vary. KL(b ‖ π), k3, in nats per token, and effective sample size (1 is "
        "on-policy): means over training steps and seeds."
    )
    return Page(title, (("", table),), notes)


def _cell(table: pd.DataFrame, cell: Mapping[str, object]) -> pd.DataFrame:
    chosen = pd.Series(True, index=table.index)
    for column, value in cell.items():
        chosen &= table[column] == value
    return table[chosen]


def _mean(table: pd.DataFrame, metric: str) -> str:
    values = table.loc[table["metric"] == metric, "value"]
    return f"{values.mean():.3f}" if len(values) else NOT_RUN
