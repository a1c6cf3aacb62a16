"""The comparisons that the report makes, computed once: tables, claims and figures all read these.

Each function takes a tidy table and returns one entry per cell that the config asks for, in the config's order; None
for a cell that has not been run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pandas as pd

from nested_reft.config.experiment import Config, nested_cells, nested_skips, stages
from nested_reft.config.method import Strategy
from nested_reft.config.run import BASELINE_CORRECTION
from nested_reft.config.run_table import strategy_table
from nested_reft.report.statistics.completion_gradients import METHOD as OVER_PROBLEMS
from nested_reft.report.statistics.gradients import METHOD as JACKKNIFE
from nested_reft.report.statistics.gradients import Bias
from nested_reft.report.statistics.intervals import (
    Array,
    Interval,
    accuracy_interval,
    paired_difference,
    paired_ratio,
    score_interval,
)

T = TypeVar("T")
Key: TypeAlias = tuple[Any, ...]  # what it has is said by each function
Cells: TypeAlias = dict[Key, Interval | None]
_Row: TypeAlias = Mapping[Hashable, Any]
_RUN = ["size", "dataset", "correction", "skip", "seed"]
_ON_BENCHMARK = ["size", "dataset", "benchmark", "correction", "skip", "seed"]
CHOICE = ["size", "dataset", "strategy", "skip", "seed"]
BASELINE_CHOICE = ("uniform", 0)  # with no layer left out there is nothing to choose


def rollout_speedups(throughput: pd.DataFrame, config: Config) -> Cells:
    """Rollout tokens/s of the nested over the full model, per (size, skip), 0 too (`throughput.csv`)."""
    return _speedups(throughput, config, (0, *nested_skips(config)))


def step_speedups(step_speed: pd.DataFrame, config: Config) -> Cells:
    """Speed of a whole training step with nested rollouts over one with the full model's, per (size, skip)
    (`step_speed.csv`).
    """
    return _speedups(step_speed, config, nested_skips(config))


def benchmark_means(runs: pd.DataFrame, config: Config, metric: str, run: list[str] = _RUN) -> pd.DataFrame:
    """Mean accuracy over all benchmarks: the columns `run` that tell runs apart, value (0..1) and n.

    n is the number of problems of a single benchmark whose accuracy would vary as much as the mean: all of them
    together, if benchmarks have equal numbers. A run that misses a benchmark has no mean: one over fewer benchmarks
    would be compared with one over all.
    """
    chosen = runs[runs["metric"] == metric]
    groups = chosen.assign(inverse=1 / chosen["n"]).groupby(run, dropna=False, sort=False)
    count = groups["value"].count()
    means = pd.DataFrame({"value": groups["value"].mean(), "n": count**2 / groups["inverse"].sum()})
    return means[count == len(config.benchmarks)].reset_index()


def accuracy_of(model: pd.DataFrame) -> Interval | None:
    """Mean accuracy (0..1) of one model's rows, one per seed, with the columns seed, value and n problems.

    A model before reinforcement has one row without a seed, and an interval over problems only. None for no rows.
    """
    if model.empty:
        return None
    problems = float(model["n"].iloc[0])
    if model["seed"].isna().all():
        return score_interval(float(model["value"].iloc[0]), problems)
    return accuracy_interval(model["value"].to_numpy(dtype=np.float64), problems)


def parity(runs: pd.DataFrame, config: Config, metric: str) -> Cells:
    """Accuracy, nested minus baseline, per seed on identical problems, per (size, data set, benchmark, correction,
    skip) (`runs.csv`).
    """
    found = _by_seed(runs[runs["metric"] == metric], _ON_BENCHMARK)
    keys = [(*of, *cell) for of in _learners(config) for cell in nested_cells(config)]
    return {key: _paired(found, key, (*key[:3], BASELINE_CORRECTION, 0), paired_difference) for key in keys}


def mean_differences(runs: pd.DataFrame, config: Config, metric: str) -> Cells:
    """The same of the mean over benchmarks, per (size, data set, correction, skip): to be drawn, not to be judged. One
    benchmark on which nothing is learned would halve every difference.
    """
    means = _by_seed(benchmark_means(runs, config, metric), _RUN)
    keys = [(*of, *cell) for of in product(config.sizes, config.datasets) for cell in nested_cells(config)]
    return {key: _paired(means, key, (*key[:2], BASELINE_CORRECTION, 0), paired_difference) for key in keys}


def gains(runs: pd.DataFrame, config: Config, metric: str, of_start: str | None = None) -> Cells:
    """Accuracy, baseline ReFT minus the model that it started from, per (size, data set, benchmark) (`runs.csv`).

    `of_start`: the metric of the latter, if another (`sampled_at` a lower temperature).
    """
    values = _by_seed(runs[runs["metric"] == metric], _ON_BENCHMARK)
    starts = _by_seed(runs[runs["metric"] == (of_start or metric)], _ON_BENCHMARK)
    found: Cells = {}
    for size, dataset, benchmark in _learners(config):
        tuned = np.array(list(values.get((size, dataset, benchmark, BASELINE_CORRECTION, 0), {}).values()))
        start = list(starts.get((size, "", benchmark, stages(config)[-1], 0), {}).values())
        measured = len(tuned) and start
        found[size, dataset, benchmark] = paired_difference(tuned, np.full(len(tuned), start[0])) if measured else None
    return found


def gradient_biases(gradients: pd.DataFrame, config: Config) -> dict[Key, Bias | None]:
    """Relative bias of a corrected gradient estimate, without the noise, per (size, correction, skip)
    (`gradients.csv`).
    """

    def bias(row: _Row) -> Bias:
        return Bias(**vars(_jackknifed(row, "bias_debiased", "bias")), noise=row["noise_floor"])

    return _gradients(gradients, config, bias)


def gradient_variances(gradients: pd.DataFrame, config: Config) -> Cells:
    """Variance of a corrected gradient estimate over that of the on-policy one, by the same cells."""
    return _gradients(gradients, config, lambda row: _jackknifed(row, "variance_ratio", "variance"))


def gradient_directions(gradients: pd.DataFrame, config: Config, quantity: str) -> Cells:
    """`scale` or `cosine` of a corrected gradient estimate with the on-policy one, without noise, by the same cells.

    None of a kept run that is older than the quantity.
    """
    known = gradients if quantity in gradients else gradients.iloc[:0]
    return _gradients(known, config, lambda row: _jackknifed(row, quantity, quantity))


def completion_gradients(completions: pd.DataFrame, config: Config, quantity: str) -> Cells:
    """Problem by problem, from distinct completions: `bias`, `scale`, `cosine` or `variance_ratio` of a corrected
    gradient estimate, per (size, correction, skip) (`completion_gradients.csv`).
    """

    def found(row: _Row) -> Interval:
        return Interval(row[quantity], row[f"{quantity}_low"], row[f"{quantity}_high"], row["n"], OVER_PROBLEMS)

    return _gradients(completions, config, found)


def compared_strategies(config: Config) -> tuple[Strategy, ...]:
    """The layer-selection strategies that are compared; none if there is only one."""
    strategies: tuple[Strategy, ...] = config.layer_choice.strategies
    return strategies if len(strategies) > 1 else ()


def strategy_parity(strategies: pd.DataFrame, config: Config) -> Cells:
    """Mean headline accuracy over benchmarks, each strategy minus baseline ReFT, paired by seed, per (size, data set,
    strategy) (`strategies.csv`).
    """
    return _strategies_against(strategies, config, BASELINE_CHOICE)


def strategy_contrasts(strategies: pd.DataFrame, config: Config) -> Cells:
    """The same, each strategy minus the first one."""
    return _strategies_against(strategies, config, (config.layer_choice.strategies[0], config.layer_choice.skip))


def effective_rollouts(strategies: pd.DataFrame, config: Config) -> Cells:
    """What a rollout is worth in equal time: its tokens per second times their effective sample size, over baseline
    ReFT's, paired by seed, per (size, data set, strategy, skip) (`strategies.csv`).
    """
    of_runs = strategies[strategies["benchmark"] == ""].set_index(CHOICE)
    speed, ess = (of_runs.loc[of_runs["metric"] == name, "value"] for name in ("rollout_tokens_per_s", "ess"))
    worth = _by_seed((speed * ess).dropna().reset_index(), CHOICE)
    keys = [(run.size, run.dataset, run.strategy, run.skip) for run in strategy_table(config)]
    return {key: _paired(worth, key, (*key[:2], *BASELINE_CHOICE), paired_ratio) for key in keys}


def _learners(config: Config) -> Iterable[Key]:
    """Where a baseline can learn or not: every (size, data set, benchmark)."""
    return product(config.sizes, config.datasets, config.benchmarks)


def _rows(
    table: pd.DataFrame, columns: list[str], keys: Iterable[Key], of_row: Callable[[_Row], T]
) -> dict[Key, T | None]:
    """`of_row` of the row with each key, which is the values of `columns`; None if there is no such row."""
    rows = {tuple(row[column] for column in columns): row for row in table.to_dict("records")}
    return {key: of_row(rows[key]) if key in rows else None for key in keys}


def _speedups(measured: pd.DataFrame, config: Config, skips: Sequence[int]) -> Cells:
    def speedup(row: _Row) -> Interval:
        return Interval(row["speedup"], row["speedup_low"], row["speedup_high"], row["n"], "bootstrap over pairs")

    return _rows(measured, ["size", "skip"], product(config.sizes, skips), speedup)


def _gradients(gradients: pd.DataFrame, config: Config, of_row: Callable[[_Row], T]) -> dict[Key, T | None]:
    keys = product(config.sizes, config.gradients.corrections, nested_skips(config))
    return _rows(gradients, ["size", "correction", "skip"], keys, of_row)


def _jackknifed(row: _Row, estimate: str, bounds: str) -> Interval:
    return Interval(row[estimate], row[f"{bounds}_low"], row[f"{bounds}_high"], row["n"], JACKKNIFE)


def _strategies_against(strategies: pd.DataFrame, config: Config, control: tuple[str, int | None]) -> Cells:
    """Every compared strategy minus the control, which is a strategy and a skip."""
    means = _by_seed(benchmark_means(strategies, config, config.evaluation.headline, CHOICE), CHOICE)
    keys = product(config.sizes, config.datasets, compared_strategies(config))
    skip = config.layer_choice.skip
    return {key: _paired(means, (*key, skip), (*key[:2], *control), paired_difference) for key in keys}


def _by_seed(table: pd.DataFrame, columns: list[str]) -> dict[Key, dict[int, float]]:
    """The column `value` as {the values of `columns` but the last: {the last, the seed: value}}."""
    cells: dict[Key, dict[int, float]] = {}
    for *key, seed, value in table[[*columns, "value"]].itertuples(index=False, name=None):
        cells.setdefault(tuple(key), {})[seed] = value
    return cells


def _paired(
    cells: Mapping[Key, Mapping[int, float]],
    treatment: Key,
    control: Key,
    statistic: Callable[[Array, Array], Interval],
) -> Interval | None:
    """`statistic` over the seeds that both cells have; None if they share none."""
    treated, controls = cells.get(treatment, {}), cells.get(control, {})
    seeds = sorted(treated.keys() & controls.keys())
    if not seeds:
        return None
    return statistic(np.array([treated[s] for s in seeds]), np.array([controls[s] for s in seeds]))
