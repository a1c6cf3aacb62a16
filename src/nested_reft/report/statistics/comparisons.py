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
from nested_reft.config.run import BASELINE_CORRECTION
from nested_reft.config.run_table import strategy_table
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

# Keys: (size, skip), (size, data set, correction, skip), (size, data set),
# (size, correction, skip) and (size, data set, strategy).
Speedups: TypeAlias = dict[tuple[str, int], Interval | None]
Differences: TypeAlias = dict[tuple[str, str, str, int], Interval | None]
Gains: TypeAlias = dict[tuple[str, str], Interval | None]
GradientEffects: TypeAlias = dict[tuple[str, str, int], Interval | None]
Biases: TypeAlias = dict[tuple[str, str, int], Bias | None]
StrategyEffects: TypeAlias = dict[tuple[str, str, str], Interval | None]

T = TypeVar("T")
K = TypeVar("K", bound=tuple[object, ...])
_Row: TypeAlias = Mapping[Hashable, Any]
_BySeed: TypeAlias = dict[int, float]
_RUN = ["size", "dataset", "correction", "skip", "seed"]
CHOICE = ["size", "dataset", "strategy", "skip", "seed"]
BASELINE_CHOICE = ("uniform", 0)  # with no layer left out there is nothing to choose


def rollout_speedups(throughput: pd.DataFrame, config: Config) -> Speedups:
    """Rollout tokens/s of the nested over the full model, per size and skip, 0 too (`throughput.csv`)."""
    return _speedups(throughput, config, (0, *nested_skips(config)))


def step_speedups(step_speed: pd.DataFrame, config: Config) -> Speedups:
    """Speed of a whole training step with nested rollouts over one with the full model's, per size and skip
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


def parity(runs: pd.DataFrame, config: Config, metric: str) -> Differences:
    """Mean accuracy over benchmarks, nested minus baseline, per seed on identical problems (`runs.csv`)."""
    return _against_baseline(runs, config, metric, paired_difference)


def seed_differences(runs: pd.DataFrame, config: Config, metric: str) -> dict[tuple[str, str, str, int], Array | None]:
    """The differences (seeds,) whose mean and interval `parity` gives."""
    return _against_baseline(runs, config, metric, np.subtract)


def gains(runs: pd.DataFrame, config: Config, metric: str) -> Gains:
    """Mean accuracy over benchmarks, baseline ReFT minus the model that it started from (`runs.csv`)."""
    cells = _by_cell(benchmark_means(runs, config, metric).set_index(_RUN)["value"])
    found: Gains = {}
    for size, dataset in product(config.sizes, config.datasets):
        tuned = np.array(list(cells.get((size, dataset, BASELINE_CORRECTION, 0), {}).values()))
        start = list(cells.get((size, "", stages(config)[-1], 0), {}).values())
        measured = len(tuned) and start
        found[size, dataset] = paired_difference(tuned, np.full(len(tuned), start[0])) if measured else None
    return found


def gradient_biases(gradients: pd.DataFrame, config: Config) -> Biases:
    """Relative bias of a corrected gradient estimate, without the noise (`gradients.csv`)."""
    return _gradients(gradients, config, lambda row: _bias(row, "bias_debiased", "bias"))


def gradient_variances(gradients: pd.DataFrame, config: Config) -> GradientEffects:
    """Variance of a corrected gradient estimate over that of the on-policy one (`gradients.csv`)."""
    return _gradients(gradients, config, lambda row: _jackknifed(row, "variance_ratio", "variance"))


def gradient_cosines(gradients: pd.DataFrame, config: Config) -> GradientEffects:
    """Cosine between a corrected gradient estimate and the on-policy one, without the noise (`gradients.csv`)."""
    return _gradients(gradients, config, lambda row: _jackknifed(row, "cosine", "cosine"))


def compared_strategies(config: Config) -> tuple[str, ...]:
    """The ways to choose layers that are compared; none if there is only one."""
    strategies: tuple[str, ...] = config.layer_choice.strategies
    return strategies if len(strategies) > 1 else ()


def strategy_parity(strategies: pd.DataFrame, config: Config) -> StrategyEffects:
    """Mean headline accuracy over benchmarks, each way to choose layers minus baseline ReFT, paired by seed."""
    return _strategies_against(strategies, config, BASELINE_CHOICE, paired_difference)


def strategy_seeds(strategies: pd.DataFrame, config: Config) -> dict[tuple[str, str, str], Array | None]:
    """The differences (seeds,) whose mean and interval `strategy_parity` gives."""
    return _strategies_against(strategies, config, BASELINE_CHOICE, np.subtract)


def strategy_contrasts(strategies: pd.DataFrame, config: Config) -> StrategyEffects:
    """Mean headline accuracy over benchmarks, each way to choose layers minus the first one, paired by seed."""
    choice = config.layer_choice
    return _strategies_against(strategies, config, (choice.strategies[0], choice.skip), paired_difference)


def effective_rollouts(strategies: pd.DataFrame, config: Config) -> dict[tuple[str, str, str, int], Interval | None]:
    """What a rollout is worth in equal time: its tokens per second times their effective sample size, over baseline
    ReFT's, paired by seed, per size, data set, strategy and skip (`strategies.csv`).
    """
    of_runs = strategies[strategies["benchmark"] == ""]
    by_metric = {name: rows.set_index(CHOICE)["value"] for name, rows in of_runs.groupby("metric", sort=False)}
    if not {"rollout_tokens_per_s", "ess"} <= by_metric.keys():
        cells: dict[tuple[object, ...], _BySeed] = {}
    else:
        cells = _by_cell((by_metric["rollout_tokens_per_s"] * by_metric["ess"]).dropna())
    keys = [(run.size, run.dataset, run.strategy, run.skip) for run in strategy_table(config)]
    return {key: _paired(cells, key, (*key[:2], *BASELINE_CHOICE), paired_ratio) for key in keys}


def _rows(table: pd.DataFrame, columns: list[str], keys: Iterable[K], of_row: Callable[[_Row], T]) -> dict[K, T | None]:
    """`of_row` of the row with each key, which is the values of `columns`; None if there is no such row."""
    rows = {tuple(row[column] for column in columns): row for row in table.to_dict("records")}
    return {key: of_row(rows[key]) if key in rows else None for key in keys}


def _speedups(measured: pd.DataFrame, config: Config, skips: Sequence[int]) -> Speedups:
    def speedup(row: _Row) -> Interval:
        bounds = row["speedup_low"], row["speedup_high"]
        return Interval(row["speedup"], *bounds, row["n"], "bootstrap over pairs")

    return _rows(measured, ["size", "skip"], product(config.sizes, skips), speedup)


def _jackknifed(row: _Row, estimate: str, bounds: str) -> Interval:
    return Interval(row[estimate], row[f"{bounds}_low"], row[f"{bounds}_high"], row["n"], JACKKNIFE)


def _bias(row: _Row, estimate: str, bounds: str) -> Bias:
    return Bias(**vars(_jackknifed(row, estimate, bounds)), noise=row["noise_floor"])


def _gradients(
    gradients: pd.DataFrame, config: Config, of_row: Callable[[_Row], T]
) -> dict[tuple[str, str, int], T | None]:
    keys = product(config.sizes, config.gradients.corrections, nested_skips(config))
    return _rows(gradients, ["size", "correction", "skip"], keys, of_row)


def _strategies_against(
    strategies: pd.DataFrame,
    config: Config,
    control: tuple[str, int | None],
    statistic: Callable[[Array, Array], T],
) -> dict[tuple[str, str, str], T | None]:
    """`statistic` of every compared strategy and the control, which is a strategy and a skip."""
    cells = _by_cell(benchmark_means(strategies, config, config.evaluation.headline, CHOICE).set_index(CHOICE)["value"])
    skip = config.layer_choice.skip
    keys = product(config.sizes, config.datasets, compared_strategies(config))
    return {key: _paired(cells, (*key, skip), (*key[:2], *control), statistic) for key in keys}


def _against_baseline(
    runs: pd.DataFrame, config: Config, metric: str, statistic: Callable[[Array, Array], T]
) -> dict[tuple[str, str, str, int], T | None]:
    cells = _by_cell(benchmark_means(runs, config, metric).set_index(_RUN)["value"])
    keys = [(*of, *cell) for of in product(config.sizes, config.datasets) for cell in nested_cells(config)]
    return {key: _paired(cells, key, (*key[:2], BASELINE_CORRECTION, 0), statistic) for key in keys}


def _by_cell(values: pd.Series) -> dict[tuple[object, ...], _BySeed]:
    """A series whose last index level is the seed, as {cell: {seed: value}}."""
    cells: dict[tuple[object, ...], _BySeed] = {}
    for key, value in zip(values.index.to_flat_index(), values, strict=True):
        cells.setdefault(key[:-1], {})[key[-1]] = value
    return cells


def _paired(
    cells: dict[tuple[object, ...], _BySeed],
    treatment: tuple[object, ...],
    control: tuple[object, ...],
    statistic: Callable[[Array, Array], T],
) -> T | None:
    """`statistic` over the seeds that both cells have; None if they share none."""
    treated, controls = cells.get(treatment, {}), cells.get(control, {})
    seeds = sorted(treated.keys() & controls.keys())
    if not seeds:
        return None
    return statistic(np.array([treated[s] for s in seeds]), np.array([controls[s] for s in seeds]))
