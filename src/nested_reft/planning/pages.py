"""The plan as text: what is exact, what is estimated, and from which assumptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from nested_reft.config.experiment import Config, job_resources
from nested_reft.config.rollout_engine import Vllm
from nested_reft.config.training import Training
from nested_reft.planning.disk import Disk
from nested_reft.planning.memory import GB, USABLE, Gpus, Memory, vllm_fits
from nested_reft.planning.plan import Assumptions, Jobs, other_jobs
from nested_reft.planning.shapes import Shape

UNKNOWN = "unknown"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return str(pd.DataFrame(rows, columns=list(header)).to_markdown(index=False, disable_numparse=True))


def _gigabytes(value: float) -> str:
    return f"{value / GB:,.1f}" if value >= GB / 10 else f"{value / GB:.2g}"


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def assumptions_text(assumed: Assumptions, device: str) -> str:
    """The assumptions behind the estimates, with the options that change them."""
    machine, what = assumed.machine, "a GPU" if device == "cuda" else "the CPU threads of a job"
    return "\n".join(
        [
            f"Assumptions about {what}; replace them by what yours reaches:",
            "",
            f"- `--teraflops {machine.flops / 1e12:g}`, in matrix products;",
            f"- `--gigabytes-per-s {machine.bandwidth / GB:g}`, reading weights and cache;",
            f"- `--layer-us {machine.layer_seconds * 1e6:g}`, to launch all operations of a layer;",
            f"- `--prompt-tokens {assumed.prompt_tokens}` on average;",
            f"- `--length {assumed.length:g}`, the mean completion's share of the maximal length;",
            f"- `--mixed {assumed.mixed:g}`, the share of groups whose rewards differ: others have no backward pass;",
            f"- `--startup {assumed.startup:g}` seconds before a job starts to compute.",
            "",
            "n GPUs are assumed to be n times as fast as one. Grading and waiting in a queue are not counted.",
        ]
    )


def jobs_table(jobs: Sequence[Jobs], config: Config) -> str:
    """The jobs by size and kind, and the run time that they request."""
    unit = "GPU-hours" if config.device == "cuda" else "hours"
    header = ["size", "job", "jobs", "GPUs each", f"{unit}, all", "hours, longest", "hours requested"]
    rows = []
    for job in jobs:
        asked = job_resources(config, job.size, job.kind).runtime / 60
        hours, longest = UNKNOWN, UNKNOWN
        if job.device_hours is not None:
            hours, longest = _hours(job.device_hours), _hours(job.longest / 3600)
        rows.append([job.size, job.kind, f"{job.count:,}", str(job.gpus), hours, longest, _hours(asked)])
    known = [job.device_hours for job in jobs if job.device_hours is not None]
    total = _hours(sum(known)) if len(known) == len(jobs) else f"{_hours(sum(known))} plus the unknown"
    others = other_jobs(config)
    rows.append(["", "data and report", str(others), "0", "", "", ""])
    rows.append(["all", "", f"{sum(job.count for job in jobs) + others:,}", "", total, "", ""])
    return _table(header, rows)


def vllm_note(vllm: Vllm) -> str:
    """What the plan says of rollouts by vLLM."""
    return (
        "**vLLM** writes the completions of trainings and evaluations, in eager mode. Their hours are the same least "
        "work; what vLLM reaches of it has not been measured. The column `rollout` is vLLM's share of a GPU, which it "
        + ("gives back" if vllm.sleep else "keeps")
        + " during an update (`vllm.sleep`)."
    )


def small_shares(shapes: Mapping[str, Shape], training: Training, gpus: Sequence[Gpus], vllm: Vllm) -> list[str]:
    """One line per size and kind of GPU of which vLLM's share is too small."""
    return [
        f"vllm.memory_share: {vllm.memory_share:g} of {gigabytes:g} GB does not hold the weights of '{size}', and keys "
        "and values of one completion"
        for size, shape in shapes.items()
        for gigabytes in sorted({kind.gigabytes for kind in gpus})
        if not vllm_fits(shape, training, Gpus(1, gigabytes), vllm)
    ]


def short_jobs(jobs: Sequence[Jobs], config: Config) -> list[str]:
    """One line per kind of job that is estimated to take longer than it requests."""
    lines = []
    for job in jobs:
        asked = job_resources(config, job.size, job.kind).runtime
        if job.longest / 60 > asked:
            lines.append(
                f"resources.{job.size}.{job.kind}.runtime: {asked} minutes are requested, but the longest job is "
                f"estimated at {job.longest / 60:,.0f}"
            )
    return lines


def disk_table(disks: Sequence[Disk], parameters: Mapping[str, int]) -> str:
    """Weights on disk."""
    header = [
        "size",
        "parameters",
        "model, GB",
        "final policies, GB",
        "both, GB",
        "checkpoints of a run in training, GB",
    ]
    rows = [
        [
            disk.size, f"{parameters[disk.size]:,}", _gigabytes(disk.model),
            f"{disk.policies} x {_gigabytes(disk.policy)}", _gigabytes(disk.total), _gigabytes(disk.checkpoints),
        ]
        for disk in disks
    ]  # fmt: skip
    return _table(header, rows)


def memory_table(memories: Sequence[tuple[str, Gpus, str, Memory]]) -> str:
    """One row per size and set of GPUs; the peak without and with activation checkpointing."""
    header = [
        "size", "GPUs", "trained", "weights", "gradients", "AdamW", "copies", "logits", "rollout",
        "activations: all", "peak", "checkpointed", "peak",
    ]  # fmt: skip
    rows = []
    for size, gpus, way, memory in memories:
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.copies, memory.logits, memory.rollout)
        row = [size, str(gpus), way, *map(_gigabytes, parts)]
        for kept, checkpointing in ((memory.activations, False), (memory.checkpointed, True)):
            peak = memory.peak(checkpointing)
            fits = "fits" if peak <= USABLE * gpus.gigabytes * GB else "too much"
            row += [_gigabytes(kept), f"{_gigabytes(peak)}, {fits}"]
        rows.append(row)
    return _table(header, rows)
