"""The plan of an experiment as text: its jobs with their hours, disk and memory, from the settings of every job."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import pandas as pd

from nested_reft.config.ablation import InfluenceSettings
from nested_reft.config.evaluation import EvaluateSettings
from nested_reft.config.experiment import Config, gpus_of, job_resources, problem_sets, vllm_of
from nested_reft.config.gradients import CompletionGradientSettings, GradientSettings, OnPolicySettings
from nested_reft.config.jobs import settings_by_kind, warmups
from nested_reft.config.nestability import NestabilitySettings
from nested_reft.config.resources import JobKind
from nested_reft.config.run_table import all_runs
from nested_reft.config.sampling import Lengths
from nested_reft.config.sources import GeneratedProblems, HubModel, HubProblems, ModelSettings, ScratchModel
from nested_reft.config.strict import Strict
from nested_reft.config.throughput import StepSpeedSettings, ThroughputSettings
from nested_reft.config.training import TrainSettings
from nested_reft.config.warmup import WarmupSettings
from nested_reft.core.layer_selection import num_skipped
from nested_reft.data.lock import HubLock, locked
from nested_reft.planning.costs import (
    ADAMW_STATES,
    FLOAT32,
    GB,
    VALUE_BYTES,
    Assumptions,
    Batch,
    Costs,
    Gpus,
    Shape,
    Way,
    Work,
    plan_memory,
    trained_parameters,
    vllm_fits,
)
from nested_reft.report.registry import FIGURES, PAGES, asked
from nested_reft.training.checkpoint import num_kept

# Assumed unless the config or an option says otherwise. cuda: 40 % of the 989 TFLOP/s in bfloat16 and 60 % of the 3,350
# GB/s that an H100 SXM has on its data sheet, and 30 small operations per layer of 8 microseconds each. cpu: what one
# thread reached in docs/benchmarks.md, whose rates include launching operations; jobs are forked from a warm process.
DEFAULTS: dict[str, dict[str, float]] = {
    "cuda": {"teraflops": 400, "gigabytes_per_s": 2000, "layer_us": 240, "prompt_tokens": 200, "startup": 60},
    "cpu": {"teraflops": 0.03, "gigabytes_per_s": 1.3, "layer_us": 0, "prompt_tokens": 25, "startup": 0.5},
}
OTHER_JOBS = 6  # check, exact, settings, collect, presentation_tables, claims
USABLE = 0.9  # of a GPU's memory: the rest is torch's context and fragmentation
UNKNOWN = "unknown"


# --- jobs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Jobs:
    """The jobs of one size and kind. A job's work is None if a model's shape or a benchmark's size is unknown."""

    size: str
    kind: JobKind
    gpus: int
    """Of each job; 0 on a CPU."""
    work: list[Work | None]
    startup: float
    """Seconds, of each job but those that fetch a model, which have no work."""

    @property
    def seconds(self) -> list[float]:
        """Of each job whose work is known; the best case: n GPUs compute for an nth of the time."""
        known = [work.seconds / max(self.gpus, 1) for work in self.work if work is not None]
        return [seconds and seconds + self.startup for seconds in known]

    @property
    def longest(self) -> float:
        return max(self.seconds, default=0.0)

    @property
    def device_hours(self) -> float | None:
        return None if None in self.work else max(self.gpus, 1) * sum(self.seconds) / 3600


def other_jobs(config: Config) -> int:
    """How many jobs make data, tables, figures and pages; none is given hours."""
    shown = len(asked(FIGURES, config)) + len(asked(PAGES, config))
    return sum(map(len, problem_sets(config).values())) + OTHER_JOBS + shown


def problem_count(source: GeneratedProblems | HubProblems, provenance: Path, lock: HubLock) -> int | None:
    """How many problems a benchmark has: made here, as fetched, or as locked; None if none of these says."""
    if isinstance(source, GeneratedProblems):
        return source.problems
    try:
        return int(json.loads(provenance.read_text(encoding="utf-8"))["rows_kept"])
    except (OSError, ValueError, KeyError):
        rows = next((entry.rows for entry in locked(lock, source) if entry.rows), None)
    if rows is None:
        return None
    return min(max(rows - source.offset, 0), source.limit or rows)


@dataclass(frozen=True)
class Planner:
    """The work of one size's jobs, by what they are passed."""

    config: Config
    shape: Shape
    assumed: Assumptions
    benchmarks: Mapping[str, int | None]
    """How many problems each has."""
    several_gpus: bool
    """Whether a training has more than one."""

    def work(self, settings: Strict) -> Work | None:
        """The work of the job with these settings; None if the size of a benchmark is not known."""
        training, costs = self.config.training, self._costs
        match settings:
            case ModelSettings(model=ScratchModel() as model, pretraining=pretraining) if pretraining:
                tokens = self.assumed.prompt_tokens + self.assumed.length * training.max_new_tokens
                batch = Batch(pretraining.batch_size, 0, 1, tokens, ceil(tokens))
                return costs.pretraining_step(batch).times(model.pretraining_steps)
            case ModelSettings():
                return Work()
            case WarmupSettings(warmup=warmup):
                part = warmup.solutions_per_micro_batch or warmup.solutions_per_batch
                changes = {"updates_per_rollout": 1, "kl_coefficient": 0.0, "lora": None}
                supervised = training.model_copy(update=changes | {"problems_per_micro_batch": part})
                batch = self._batch(warmup.solutions_per_batch, 1, settings)
                return costs.update(batch, supervised).times(warmup.steps)
            case TrainSettings(run=run):
                batch = self._batch(training.problems_per_step, training.completions_per_problem, training)
                # Groups of equal rewards have no backward pass, unless processes must stay in step or KL counts.
                mixed = 1.0 if self.several_gpus or training.kl_coefficient > 0 else self.assumed.mixed
                once = costs.rollout(batch, self._skipped(run.skip)) + costs.update(batch, training, mixed)
                return once.times(training.steps)
            case EvaluateSettings(benchmarks=names, temperatures=temperatures):
                counts, times = [self.benchmarks[name] for name in names], 1 + len(temperatures)
                return None if None in counts else sum((self._benchmark(count or 0, times) for count in counts), Work())
            case ThroughputSettings(throughput=options, skip=skip):
                batch = self._batch(options.problems, options.completions_per_problem, settings, 1.0)
                pair = costs.rollout(batch) + costs.rollout(batch, self._skipped(skip))
                return pair.times(options.warmup_pairs + options.pairs)
            case StepSpeedSettings(step_speed=speed, training=timed, skip=skip):
                batch = self._batch(timed.problems_per_step, timed.completions_per_problem, timed, 1.0)
                rollouts = costs.rollout(batch) + costs.rollout(batch, self._skipped(skip))
                return (rollouts + costs.update(batch, timed).times(2)).times(speed.warmup_pairs + speed.pairs)
            case GradientSettings(gradients=measured, skip=skip):
                return self._gradients(settings, self._skipped(skip), len(measured.corrections))
            case OnPolicySettings():
                return self._gradients(settings, 0, 1).times(2)
            case CompletionGradientSettings(completions=measured, skip=skip):
                distinct = ceil(2 * measured.pool * self.assumed.distinct)
                pool, seen = (self._batch(1, group, settings) for group in (measured.pool, distinct))
                pair = costs.rollout(pool) + costs.rollout(pool, self._skipped(skip)) + costs.forward(seen).times(2)
                backward = costs.forward(seen).times((2 + int(settings.gradient_checkpointing)) * self.assumed.mixed)
                # On-policy and each correction in both pairs, and in the first once more for the second moment.
                return (pair.times(2) + backward.times(3 * (1 + len(measured.corrections)))).times(measured.problems)
            case InfluenceSettings(problems=problems):
                prompt = min(self.assumed.prompt_tokens, settings.max_prompt_tokens)
                return costs.read(problems, prompt).times(self.shape.layers + 1)
            case NestabilitySettings(nestability=nested, skip=skip):
                batch = self._batch(nested.problems_per_batch, nested.completions_per_problem, settings)
                once = costs.rollout(batch, self._skipped(skip)) + costs.forward(batch)
                pairs = (once + costs.rollout(batch)).times(len(nested.precisions))
                return (once + pairs).times(nested.batches)
        raise TypeError(f"no job has {type(settings).__name__}")

    @property
    def _costs(self) -> Costs:
        return Costs(self.shape, self.assumed, VALUE_BYTES[self.config.training.dtype])

    def _skipped(self, percent: int) -> int:
        return num_skipped(self.shape.layers, percent)

    def _batch(self, prompts: int, group: int, lengths: Lengths, share: float | None = None) -> Batch:
        """Completions whose mean length is this share of the largest; None: the share that is assumed."""
        most, prompt = lengths.max_new_tokens, min(self.assumed.prompt_tokens, lengths.max_prompt_tokens)
        return Batch(prompts, prompt, group, max(1, (share or self.assumed.length) * most), most)

    def _benchmark(self, problems: int, times: int) -> Work:
        """Greedy answers once, sampled ones so many times."""
        evaluation, answered = self.config.evaluation, Work()
        for group in (1, *[evaluation.samples_per_problem] * times):
            batch = self._batch(min(problems, evaluation.batch_problems), group, evaluation)
            answered += self._costs.rollout(batch).times(ceil(problems / evaluation.batch_problems))
        return answered

    def _gradients(self, settings: OnPolicySettings, skipped: int, estimates: int) -> Work:
        options = settings.gradients
        batch = self._batch(options.problems_per_batch, options.completions_per_problem, settings)
        one = self._costs.gradients(batch, skipped, estimates, settings.gradient_checkpointing)
        return one.times(options.batches)


def plan_jobs(
    config: Config, shapes: Mapping[str, Shape | None], assumed: Assumptions, results: Path, lock: HubLock
) -> Iterator[Jobs]:
    """The jobs of every size and kind."""
    benchmarks = {
        name: problem_count(source, results / f"data/test/{name}.json", lock)
        for name, source in config.benchmarks.items()
    }
    for size, shape in shapes.items():
        several = gpus_of(config, size, "train") > 1
        planner = Planner(config, shape, assumed, benchmarks, several) if shape else None
        for kind, settings in settings_by_kind(config, size).items():
            work = [planner.work(job) if planner else None for job in settings]
            yield Jobs(size, kind, gpus_of(config, size, kind), work, assumed.startup)


# --- disk -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disk:
    """Bytes of weights that a size leaves on disk; exact."""

    size: str
    model: int
    policy: int
    policies: int
    checkpoint: int
    """Of one step: what is trained, and its optimizer states, in float32."""
    warmed_up: int = 0
    """The weights after each warm-up, in float32; 0 if there is none."""

    @property
    def checkpoints(self) -> int:
        """Of one run while it trains: those that are kept, and the one that is being written."""
        return (num_kept(self.checkpoint) + 1) * self.checkpoint

    @property
    def total(self) -> int:
        """Without checkpoints, which are deleted when a run ends."""
        return self.model + self.warmed_up + self.policies * self.policy


def plan_disk(config: Config, size: str, shape: Shape) -> Disk:
    """What one size needs; a model of the hub is assumed to be stored in two bytes per parameter, like Qwen's."""
    stored = VALUE_BYTES["bfloat16"] if isinstance(config.sizes[size], HubModel) else FLOAT32
    return Disk(
        size,
        model=stored * shape.parameters,
        policy=VALUE_BYTES[config.training.dtype] * shape.parameters,
        policies=sum(run.size == size for run in all_runs(config)),
        warmed_up=FLOAT32 * shape.parameters * len(warmups(config)),
        checkpoint=FLOAT32 * (1 + ADAMW_STATES) * trained_parameters(shape, config.training),
    )


# --- the page ---------------------------------------------------------------------------------------------------


def plan_page(
    config: Config,
    shapes: Mapping[str, Shape | None],
    assumed: Assumptions,
    kinds: Sequence[Gpus],
    results: Path,
    lock: HubLock,
) -> str:
    """What is exact, what is estimated, and from which assumptions."""
    jobs = list(plan_jobs(config, shapes, assumed, results, lock))
    known = {size: shape for size, shape in shapes.items() if shape is not None}
    parts = [
        f"## Experiment '{config.experiment}'",
        _assumptions(assumed, config.device),
        "**Jobs.** Their number is exact; hours are estimates.",
        _jobs_table(jobs, config),
        *_short_jobs(jobs, config),
    ]
    for size in (size for size, shape in shapes.items() if shape is None):
        fetch = f"snakemake --cores 1 {results}/models/{size}.json"
        parts.append(f"Unknown: the shape of '{size}'. Fetch it ({fetch}), or write it under sizes.{size}.shape.")
    parts.append("**Disk.** Only weights; exact, for models of the hub if they are stored in bfloat16.")
    parts.append(_disk_table([plan_disk(config, size, shape) for size, shape in known.items()], known))
    if vllm := vllm_of(config):
        parts.append(
            "**vLLM** writes the completions of trainings and evaluations, in eager mode. Their hours are the same "
            "least work; what vLLM reaches of it has not been measured. The column `rollout` is vLLM's share of a GPU, "
            f"which it {'gives back' if vllm.sleep else 'keeps'} during an update (`vllm.sleep`)."
        )
    if config.device == "cuda":
        parts.append("**Memory** of a training step on each GPU, in GB; estimates.")
        parts.append(_memory_table(config, known, assumed.prompt_tokens, kinds))
        parts += _small_shares(config, known, kinds)
    return "\n\n".join(parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return str(pd.DataFrame(rows, columns=list(header)).to_markdown(index=False, disable_numparse=True))


def _gigabytes(value: float) -> str:
    return f"{value / GB:,.1f}" if value >= GB / 10 else f"{value / GB:.2g}"


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _assumptions(assumed: Assumptions, device: str) -> str:
    return f"""\
Assumptions about {"a GPU" if device == "cuda" else "the CPU threads of a job"}; replace them by what yours reaches:

- `--teraflops {assumed.teraflops:g}`, in matrix products;
- `--gigabytes-per-s {assumed.gigabytes_per_s:g}`, reading weights and cache;
- `--layer-us {assumed.layer_us:g}`, to launch all operations of a layer;
- `--prompt-tokens {assumed.prompt_tokens}` on average;
- `--length {assumed.length:g}`, the mean completion's share of the maximal length;
- `--mixed {assumed.mixed:g}`, the share of groups whose rewards differ: others have no backward pass;
- `--distinct {assumed.distinct:g}`, the share of one problem's completions that are distinct;
- `--startup {assumed.startup:g}` seconds before a job starts to compute.

n GPUs are assumed to be n times as fast as one. Grading and waiting in a queue are not counted."""


def _jobs_table(jobs: Sequence[Jobs], config: Config) -> str:
    unit = "GPU-hours" if config.device == "cuda" else "hours"
    header = ["size", "job", "jobs", "GPUs each", f"{unit}, all", "hours, longest", "hours requested"]
    rows = []
    for job in jobs:
        asked = job_resources(config, job.size, job.kind).runtime / 60
        hours = [UNKNOWN] * 2 if job.device_hours is None else [_hours(job.device_hours), _hours(job.longest / 3600)]
        rows.append([job.size, job.kind, f"{len(job.work):,}", str(job.gpus), *hours, _hours(asked)])
    known = [job.device_hours for job in jobs if job.device_hours is not None]
    total = _hours(sum(known)) if len(known) == len(jobs) else f"{_hours(sum(known))} plus the unknown"
    others = other_jobs(config)
    rows.append(["", "data and report", str(others), "0", "", "", ""])
    rows.append(["all", "", f"{sum(len(job.work) for job in jobs) + others:,}", "", total, "", ""])
    return _table(header, rows)


def _short_jobs(jobs: Sequence[Jobs], config: Config) -> Iterator[str]:
    for job in jobs:
        asked = job_resources(config, job.size, job.kind).runtime
        if job.longest / 60 > asked:
            yield (
                f"Too short: resources.{job.size}.{job.kind}.runtime: {asked} minutes are requested, but the longest "
                f"job is estimated at {job.longest / 60:,.0f}."
            )


def _disk_table(disks: Sequence[Disk], shapes: Mapping[str, Shape]) -> str:
    header = ["size", "parameters", "model, GB", "final policies, GB", "both, GB"]
    rows = []
    for disk in disks:
        model, policy, total, checkpoints = map(_gigabytes, (disk.model, disk.policy, disk.total, disk.checkpoints))
        parameters = f"{shapes[disk.size].parameters:,}"
        rows.append([disk.size, parameters, model, f"{disk.policies} x {policy}", total, checkpoints])
    return _table([*header, "checkpoints of a run in training, GB"], rows)


def _memory_table(config: Config, shapes: Mapping[str, Shape], prompt_tokens: int, kinds: Sequence[Gpus]) -> str:
    """One row per size, set of GPUs and way to train; the peak without and with activation checkpointing."""
    parts = ["weights", "gradients", "optimizer", "copies", "logits", "rollout"]
    header = ["size", "GPUs", "trained", *("AdamW" if part == "optimizer" else part for part in parts)]
    rows = []
    for size, shape in shapes.items():
        for gpus in kinds:
            # One GPU has no shards, and on several nothing else is as small.
            ways: tuple[Way, ...] = ("all weights", "adapters") if gpus.count == 1 else ("shards",)
            for way in ways:
                memory = plan_memory(shape, config.training, prompt_tokens, gpus, way, vllm_of(config))
                row = [size, str(gpus), way, *(_gigabytes(getattr(memory, part)) for part in parts)]
                for kept, checkpointing in ((memory.activations, False), (memory.checkpointed, True)):
                    peak = memory.peak(checkpointing)
                    fits = "fits" if peak <= USABLE * gpus.gigabytes * GB else "too much"
                    row += [_gigabytes(kept), f"{_gigabytes(peak)}, {fits}"]
                rows.append(row)
    return _table([*header, "activations: all", "peak", "checkpointed", "peak"], rows)


def _small_shares(config: Config, shapes: Mapping[str, Shape], kinds: Sequence[Gpus]) -> Iterator[str]:
    vllm, sizes = vllm_of(config), sorted({gpus.gigabytes for gpus in kinds})
    for size, shape in shapes.items() if vllm else ():
        for gigabytes in sizes:
            if vllm and not vllm_fits(shape, config.training, gigabytes, vllm):
                yield (
                    f"Too small: vllm.memory_share: {vllm.memory_share:g} of {gigabytes:g} GB does not hold the "
                    f"weights of '{size}', and keys and values of one completion."
                )
