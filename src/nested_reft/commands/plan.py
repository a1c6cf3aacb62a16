"""`nested-reft plan`: what an experiment costs before it is started."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from nested_reft.config.experiment import Config, load_config, vllm_of, with_device
from nested_reft.data.lock import HubLock, find_lock, read_lock
from nested_reft.planning.costs import Machine
from nested_reft.planning.disk import plan_disk
from nested_reft.planning.memory import Gpus, Way, plan_memory
from nested_reft.planning.options import DEFAULTS
from nested_reft.planning.pages import (
    assumptions_text,
    disk_table,
    jobs_table,
    memory_table,
    short_jobs,
    small_shares,
    vllm_note,
)
from nested_reft.planning.plan import Assumptions, plan_jobs
from nested_reft.planning.shapes import model_shape
from nested_reft.runtime.gpus import visible_gpus

LOCK = Path("config/hub.lock")
# Which ways get a row: one GPU has no shards, and on several nothing else is as small.
ONE_GPU: tuple[Way, ...] = ("all weights", "adapters")
SEVERAL_GPUS: tuple[Way, ...] = ("shards",)


def run(options: argparse.Namespace) -> None:
    """Print the jobs, their hours, the disk and the memory of an experiment."""
    config = with_device(load_config(options.config), len(visible_gpus(os.environ) or ()))
    assumed = _assumptions(options, config)
    results = Path("results") / config.experiment
    shapes = {size: model_shape(config, size, results) for size in config.sizes}
    known = {size: shape for size, shape in shapes.items() if shape is not None}
    lock = find_lock(options.config, LOCK)
    # Nothing is fetched here: without the file, what it would tell is shown as unknown.
    locked = read_lock(lock) if lock.exists() else HubLock()
    jobs = list(plan_jobs(config, shapes, assumed, results, locked))

    print(f"## Experiment '{config.experiment}'\n\n{assumptions_text(assumed, config.device)}\n")
    print("**Jobs.** Their number is exact; hours are estimates.\n\n" + jobs_table(jobs, config))
    for line in short_jobs(jobs, config):
        print(f"\nToo short: {line}.")
    for size in shapes:
        if size not in known:
            fetch = f"snakemake --cores 1 {results}/models/{size}.json"
            print(f"\nUnknown: the shape of '{size}'. Fetch it ({fetch}), or write it under sizes.{size}.shape.")
    disks = [plan_disk(config, size, shape) for size, shape in known.items()]
    parameters = {size: shape.parameters for size, shape in known.items()}
    print("\n**Disk.** Only weights; exact, for models of the hub if they are stored in bfloat16.\n")
    print(disk_table(disks, parameters))
    vllm = vllm_of(config)
    if vllm is not None:
        print(f"\n{vllm_note(vllm)}")
    if config.device == "cuda":
        kinds = [Gpus(*pair) for pair in options.gpus]
        memories = [
            (size, gpus, way, plan_memory(shape, config.training, assumed.prompt_tokens, gpus, way, vllm))
            for size, shape in known.items()
            for gpus in kinds
            for way in (ONE_GPU if gpus.count == 1 else SEVERAL_GPUS)
        ]
        print("\n**Memory** of a training step on each GPU, in GB; estimates.\n\n" + memory_table(memories))
        for line in small_shares(known, config.training, kinds, vllm) if vllm else ():
            print(f"\nToo small: {line}.")


def _assumptions(options: argparse.Namespace, config: Config) -> Assumptions:
    """What the options say, then the config's section `plan`, then the defaults of the device."""
    planned = config.plan.model_dump()
    on_cpu = {key.removeprefix("cpu_"): planned.pop(key) for key in list(planned) if key.startswith("cpu_")}
    found = dict(DEFAULTS[config.device])
    for said in (on_cpu if config.device == "cpu" else {}, planned, vars(options)):
        found |= {key: value for key, value in said.items() if key in found and value is not None}
    machine = Machine(found["teraflops"] * 1e12, found["gigabytes_per_s"] * 1e9, found["layer_us"] * 1e-6)
    return Assumptions(machine, int(found["prompt_tokens"]), found["length"], found["mixed"], found["startup"])
