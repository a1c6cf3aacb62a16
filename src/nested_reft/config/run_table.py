"""The training runs of an experiment: the grid, and the runs that differ in how layers are chosen."""

from __future__ import annotations

from operator import itemgetter

from nested_reft.config.experiment import Config, nested_cells
from nested_reft.config.method import Correction, Strategy
from nested_reft.config.run import BASELINE_CORRECTION, Run
from nested_reft.core.layer_selection import SELECTIONS


def run_table(config: Config) -> list[Run]:
    """The runs of the grid: one baseline (skip 0) and every nested cell, per size, data and seed."""
    strategy = config.layer_choice.strategies[0]
    cells: list[tuple[Correction, int, Strategy]] = [(BASELINE_CORRECTION, 0, "uniform")]
    cells += [(name, skip, strategy) for name, skip in sorted(nested_cells(config), key=itemgetter(1))]
    return _runs(config, cells)


def strategy_table(config: Config) -> list[Run]:
    """The runs that differ in how layers are chosen, including those of the grid; empty if there is one strategy.

    A strategy that adapts how many layers it leaves out is compared with all fixed skips.
    """
    choice = config.layer_choice
    if len(choice.strategies) == 1:
        return []
    assert choice.correction is not None, "checked by LayerChoice"
    assert choice.skip is not None, "checked by LayerChoice"
    others = [skip for name, skip in nested_cells(config) if (name, skip != choice.skip) == (choice.correction, True)]
    fixed = others if any(SELECTIONS[name].adapts for name in choice.strategies) else []
    cells = [(choice.correction, skip, choice.strategies[0]) for skip in fixed]
    return _runs(config, cells + [(choice.correction, choice.skip, strategy) for strategy in choice.strategies])


def all_runs(config: Config) -> list[Run]:
    """Every training run once; none without the part `training`."""
    if "training" not in config.parts:
        return []
    return list({run.path: run for run in (*run_table(config), *strategy_table(config))}.values())


def _runs(config: Config, cells: list[tuple[Correction, int, Strategy]]) -> list[Run]:
    return [
        Run(size=size, dataset=dataset, correction=correction, skip=skip, strategy=strategy, seed=seed)
        for size in config.sizes
        for dataset in config.datasets
        for correction, skip, strategy in cells
        for seed in config.seeds
    ]
