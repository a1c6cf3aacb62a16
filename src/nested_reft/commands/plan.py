"""`nested-reft plan`: what an experiment costs, before it is started."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from nested_reft.config.experiment import Config, load_config, with_device
from nested_reft.config.strict import parse
from nested_reft.data.lock import HubLock, find_lock, read_lock
from nested_reft.planning.costs import Assumptions, Gpus, model_shape
from nested_reft.planning.plan import DEFAULTS, plan_page
from nested_reft.runtime.gpus import visible_gpus

LOCK = Path("config/hub.lock")


def run(options: argparse.Namespace) -> None:
    """Print the jobs, their hours, the disk and the memory of an experiment."""
    config = with_device(load_config(options.config), len(visible_gpus(os.environ) or ()))
    results = Path("results") / config.experiment
    shapes = {size: model_shape(config, size, results) for size in config.sizes}
    lock = find_lock(options.config, LOCK)
    # Nothing is fetched here: without the file, what it would tell is shown as unknown.
    locked = read_lock(lock) if lock.exists() else HubLock()
    gpus = [Gpus(*pair) for pair in options.gpus]
    print(plan_page(config, shapes, _assumptions(options, config), gpus, results, locked))


def _assumptions(options: argparse.Namespace, config: Config) -> Assumptions:
    """What the options say, then the config's section `plan`, then the defaults of the device."""
    planned = config.plan.model_dump(exclude_none=True)
    on_cpu = {key.removeprefix("cpu_"): planned.pop(key) for key in list(planned) if key.startswith("cpu_")}
    said = {key: value for key in Assumptions.model_fields if (value := getattr(options, key)) is not None}
    found = DEFAULTS[config.device] | (on_cpu if config.device == "cpu" else {}) | planned | said
    return parse(Assumptions, found, "options")
