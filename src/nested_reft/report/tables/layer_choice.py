"""The table for people of the ways to choose the skipped layers."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from nested_reft.config.experiment import Config
from nested_reft.config.run_table import strategy_table
from nested_reft.core.layer_selection import SELECTIONS, num_skipped
from nested_reft.report.formatting import NOT_RUN, percent, points, ratio
from nested_reft.report.pages.page import Page
from nested_reft.report.statistics.comparisons import (
    CHOICE,
    accuracy_of,
    benchmark_means,
    compared_strategies,
    effective_rollouts,
    strategy_contrasts,
    strategy_parity,
)

EFFECTIVE = "rollouts in equal time"


def layer_choice_table(strategies: pd.DataFrame, config: Config) -> tuple[pd.DataFrame, Page]:
    """Accuracy and off-policyness, one row per size, data set and way to choose layers, after the baseline's.

    The fixed skips that an adapting strategy is compared with have rows too.
    """
    compared, choice = compared_strategies(config), config.layer_choice
    reference = f"difference to {choice.strategies[0]}"
    against_baseline, against_first = strategy_parity(strategies, config), strategy_contrasts(strategies, config)
    effective = effective_rollouts(strategies, config)
    means = benchmark_means(strategies, config, config.evaluation.headline, CHOICE)
    rows = []
    for size in config.sizes:
        for dataset in config.datasets:
            for title, strategy, at_skip in _cells(config):
                cell = {"size": size, "dataset": dataset, "strategy": strategy, "skip": at_skip}
                of_run = _cell(strategies[strategies["benchmark"] == ""], cell)
                is_first, is_compared = strategy == compared[0], at_skip == choice.skip
                key = (size, dataset, strategy)
                rows.append(
                    {
                        "size": size,
                        "dataset": dataset,
                        "strategy": title,
                        "left out": _left_out(of_run, strategy, config.sizes[size].layers, at_skip or 0),
                        "accuracy": percent(accuracy_of(_cell(means, cell))),
                        "difference to baseline": points(against_baseline[key]) if is_compared else "",
                        reference: points(against_first[key]) if is_compared and not is_first else "",
                        "KL": _mean(of_run, "kl_k3"),
                        "ESS": _mean(of_run, "ess"),
                        EFFECTIVE: ratio(effective[(*key, at_skip)]) if at_skip else "",
                    }
                )
    columns = ["size", "dataset", "strategy", "left out", "accuracy", "difference to baseline", reference, "KL", "ESS"]
    table = pd.DataFrame(rows, columns=[*columns, EFFECTIVE])
    title = "Ways to choose the skipped layers"
    if table.empty:
        return table, Page(title, (), "Not run: the configuration names one way to choose layers.")
    choice, metric = config.layer_choice, config.evaluation.headline
    notes = (
        f"Correction '{choice.correction}' at skip {choice.skip} %. Accuracy: {metric}, in percent, mean over "
        "benchmarks and seeds. Brackets: 95 % interval over seeds and problems (Wilson's score interval). Differences "
        "in percentage points, paired by seed on identical problems. Brackets: 95 % Student-t interval over seeds "
        "(artanh scale); the problems do not vary. KL(b ‖ π), k3, in nats per token, and effective sample size (1 is "
        "on-policy): means over training steps and seeds. Left out: layers, of an adapting strategy the mean. Rollouts "
        "in equal time: tokens per second (median over steps) times effective sample size, over baseline ReFT's, "
        "paired by seed (geometric mean, 95 % t interval of log ratios); jobs share the machine, so it is noisy."
    )
    return table, Page(title, (("", table),), notes)


def _cells(config: Config) -> list[tuple[str, str, int | None]]:
    """Title, strategy and skip of each row of a size and data set; none without a comparison."""
    compared, choice = compared_strategies(config), config.layer_choice
    if not compared:
        return []
    fixed = sorted({run.skip for run in strategy_table(config)} - {choice.skip})
    return [
        ("baseline ReFT", "uniform", 0),
        *((f"{compared[0]}, skip {skip} %", compared[0], skip) for skip in fixed),
        *((name, name, choice.skip) for name in compared),
    ]


def _left_out(of_run: pd.DataFrame, strategy: str, layers: int, skip: int) -> str:
    """How many layers a step leaves out: the same in all, unless the strategy adapts."""
    return _mean(of_run, "num_skipped", 1) if SELECTIONS[strategy].adapts else str(num_skipped(layers, skip))


def _cell(table: pd.DataFrame, cell: Mapping[str, object]) -> pd.DataFrame:
    chosen = pd.Series(True, index=table.index)
    for column, value in cell.items():
        chosen &= table[column] == value
    return table[chosen]


def _mean(table: pd.DataFrame, metric: str, digits: int = 3) -> str:
    values = table.loc[table["metric"] == metric, "value"]
    return f"{values.mean():.{digits}f}" if len(values) else NOT_RUN
