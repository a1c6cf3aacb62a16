"""What the jobs of a model size request from a scheduler: GPUs, memory and run time. No result depends on it."""

from __future__ import annotations

from typing import Literal

from nested_reft.config.strict import Positive, Strict

JobKind = Literal[
    "model",
    "warmup",
    "train",
    "evaluate",
    "throughput",
    "step_speed",
    "gradients",
    "completion_gradients",
    "influence",
    "nestability",
]


class JobResources(Strict):
    """What one kind of job requests. Memory and run time are those of the first try: the nth try of a job requests n
    times as much.
    """

    gpu: Positive = 1
    """GPUs, if `device` is `cuda`; on a CPU a job requests none."""
    mem_mb: Positive = 3000
    """Memory of the machine, not of the GPU, in MB."""
    runtime: Positive = 120
    """Run time in minutes."""


class SizeResources(Strict):
    """What the jobs of one model size request."""

    model: JobResources = JobResources()
    """Pre-training; a model from the hub is fetched without a GPU."""
    warmup: JobResources = JobResources()
    """The warm-up, if there is one; one process."""
    train: JobResources = JobResources()
    """One run."""
    evaluate: JobResources = JobResources()
    """One policy on one benchmark, or on as many as `evaluation.benchmarks_per_job` says."""
    throughput: JobResources = JobResources()
    """One skip setting."""
    step_speed: JobResources = JobResources()
    """One skip setting; it needs what training needs."""
    gradients: JobResources = JobResources()
    """One skip setting."""
    completion_gradients: JobResources = JobResources()
    """One skip setting."""
    influence: JobResources = JobResources()
    """The layers of one model."""
    nestability: JobResources = JobResources()
    """One model at one skip setting, with one choice of layers."""
