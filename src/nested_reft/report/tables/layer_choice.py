"""The table for people of the layer-selection strategies."""

from __future__ import annotations

import math
from itertools import product

import pandas as pd

from nested_reft.config.experiment import Config
from nested_reft.config.method import Strategy
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
    """Accuracy and off-policyness, one row per size, data set and layer-selection strategy, after the baseline's.

    The fixed skips that an adapting strategy is compared with have rows too.
    """
    compared, choice, metric = compared_strategies(config), config.layer_choice, config.evaluation.headline
    against_baseline, against_first = strategy_parity(strategies, config), strategy_contrasts(strategies, config)
    effective = effective_rollouts(strategies, config)
    cell = ["size", "dataset", "strategy", "skip"]
    means = dict(iter(benchmark_means(strategies, config, metric, CHOICE).groupby(cell, sort=False)))
    steps = strategies[strategies["benchmark"] == ""].groupby([*cell, "metric"])["value"].mean()
    rows = []
    for size, dataset, (title, strategy, skip) in product(config.sizes, config.datasets, _cells(config)):
        key, at_choice = (size, dataset, strategy), skip == choice.skip
        of_steps = {name: steps.get((*key, skip, name), math.nan) for name in ("num_skipped", "kl_k3", "ess")}
        rows.append(
            {
                "size": size,
                "dataset": dataset,
                "strategy": title,
                # An adapting strategy leaves out another number at each step.
                "left out": _number(of_steps["num_skipped"], 1)
                if SELECTIONS[strategy].adapts
                else str(num_skipped(config.sizes[size].layers, skip)),
                "accuracy": percent(accuracy_of(means.get((*key, skip), strategies[:0]))),
                "difference to baseline": points(against_baseline[key]) if at_choice else "",
                f"difference to {choice.strategies[0]}": points(against_first[key])
                if at_choice and strategy != compared[0]
                else "",
                "KL": _number(of_steps["kl_k3"], 3),
                "ESS": _number(of_steps["ess"], 3),
                EFFECTIVE: ratio(effective[(*key, skip)]) if skip else "",
            }
        )
    columns = ["size", "dataset", "strategy", "left out", "accuracy", "difference to baseline"]
    table = pd.DataFrame(rows, columns=[*columns, f"difference to {choice.strategies[0]}", "KL", "ESS", EFFECTIVE])
    title = "Ways to choose the skipped layers"
    if table.empty:
        return table, Page(title, (), "Not run: the configuration names one layer-selection strategy.")
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


def _cells(config: Config) -> list[tuple[str, Strategy, int]]:
    """Title, strategy and skip of each row of a size and data set; none without a comparison."""
    compared, skip = compared_strategies(config), config.layer_choice.skip
    if not compared or skip is None:
        return []
    fixed = sorted({run.skip for run in strategy_table(config)} - {skip})
    return [
        ("baseline ReFT", "uniform", 0),
        *((f"{compared[0]}, skip {at} %", compared[0], at) for at in fixed),
        *((name, name, skip) for name in compared),
    ]


def _number(value: float, digits: int) -> str:
    return NOT_RUN if math.isnan(value) else f"{value:.{digits}f}"
