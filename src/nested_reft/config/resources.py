"""What the jobs of a model size ask for of a scheduler: GPUs, memory and run time. No result depends on it."""

from __future__ import annotations

from typing import Literal

from nested_reft.config.strict import Positive, Strict

JobKind = Literal["model", "train", "evaluate", "throughput", "gradients"]


class JobResources(Strict):
    """What one kind of job asks for. Memory and run time are those of the first try: a job that is tried for the nth
    time asks for n times as much.
    """

    gpu: Positive = 1
    """GPUs, where `device` is `cuda`; on a CPU a job asks for none."""
    mem_mb: Positive = 3000
    """Memory of the machine, not of the GPU, in MB."""
    runtime: Positive = 120
    """Minutes."""


class SizeResources(Strict):
    """What the jobs of one model size ask for."""

    model: JobResources = JobResources()
    """Pre-training; a model of the hub is fetched without a GPU."""
    train: JobResources = JobResources()
    """One run."""
    evaluate: JobResources = JobResources()
    """One policy on one benchmark, or on as many as `evaluation.benchmarks_per_job` says."""
    throughput: JobResources = JobResources()
    """One skip setting."""
    gradients: JobResources = JobResources()
    """One skip setting."""
