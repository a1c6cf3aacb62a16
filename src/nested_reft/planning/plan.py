"""The jobs of an experiment, and what each costs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from nested_reft.config.experiment import (
    Config,
    benchmark_batches,
    job_resources,
    measured_models,
    problem_sets,
    stages,
)
from nested_reft.config.resources import JobKind
from nested_reft.config.run_table import all_runs
from nested_reft.config.sources import FetchedModel, GeneratedProblems, HubProblems
from nested_reft.core.layer_selection import SELECTIONS, num_skipped
from nested_reft.data.lock import HubLock
from nested_reft.planning.costs import VALUE_BYTES, Batch, Costs, Machine, Work
from nested_reft.planning.shapes import Shape
from nested_reft.report.registry import FIGURES, PAGES

OTHER_JOBS = 5  # check, exact, collect, presentation_tables, claims


@dataclass(frozen=True)
class Assumptions:
    """What the plan cannot know, and the user can state."""

    machine: Machine
    prompt_tokens: int
    """Mean length of a prompt."""
    length: float
    """Mean length of a completion, as a share of the maximum."""
    mixed: float
    """Share of the groups whose rewards are not all equal."""
    startup: float
    """Seconds of a job before its first computation: imports, loading the model."""


@dataclass(frozen=True)
class Jobs:
    """The jobs of one size and kind. `work` is None if the model's shape or a benchmark's size is not known."""

    size: str
    kind: JobKind
    count: int
    gpus: int
    """Of each job; 0 on a CPU."""
    work: Work | None
    longest: float
    """Seconds of the longest job."""

    @property
    def device_hours(self) -> float | None:
        return None if self.work is None else self.work.seconds / 3600


def other_jobs(config: Config) -> int:
    """How many jobs make data, tables, figures and pages; none is given hours."""
    return sum(map(len, problem_sets(config).values())) + OTHER_JOBS + len(FIGURES) + len(PAGES)


def influence_models(config: Config) -> set[str]:
    """The models whose ablation influence is measured, by stage: of runs and gradients, and of the nestability."""

    def read(names: Iterable[str]) -> bool:
        return any(SELECTIONS[name].influence_kind == "ablation" for name in names)

    start = {stages(config)[-1]} if read(config.layer_choice.strategies) else set[str]()
    measured = config.nestability is not None and read(config.nestability.strategies)
    return start.union(measured_models(config) if measured else ())


def problem_count(source: GeneratedProblems | HubProblems, provenance: Path, lock: HubLock) -> int | None:
    """How many problems a benchmark has: made here, as fetched, or as locked; None if none of these says."""
    if isinstance(source, GeneratedProblems):
        return source.problems
    try:
        return int(json.loads(provenance.read_text(encoding="utf-8"))["rows_kept"])
    except (OSError, ValueError, KeyError):
        asked = ("dataset", source.repo, source.name, source.split, source.revision)
        rows = next((entry.rows for entry in lock.entries if entry.asked == asked and entry.rows), None)
    if rows is None:
        return None
    return min(max(rows - source.offset, 0), source.limit or rows)


@dataclass(frozen=True)
class Planner:
    """The costs of one size's jobs."""

    config: Config
    size: str
    shape: Shape
    assumed: Assumptions
    results: Path
    lock: HubLock

    @property
    def _costs(self) -> Costs:
        return Costs(self.shape, self.assumed.machine, VALUE_BYTES[self.config.training.dtype])

    def _batch(self, prompts: int, group: int, most: int, most_prompt: int) -> Batch:
        return Batch(
            prompts, min(self.assumed.prompt_tokens, most_prompt), group, max(1, self.assumed.length * most), most
        )

    def train(self) -> list[Work]:
        """The work of each run."""
        training, costs = self.config.training, self._costs
        batch = self._batch(
            training.problems_per_step, training.completions_per_problem, training.max_new_tokens,
            training.max_prompt_tokens,
        )  # fmt: skip
        gpus = job_resources(self.config, self.size, "train").gpu if self.config.device == "cuda" else 1
        # As in training.accumulation.groups_with_gradient.
        every = gpus > 1 or training.kl_coefficient > 0
        update = costs.update(batch, training, 1.0 if every else self.assumed.mixed)
        runs = (run for run in all_runs(self.config) if run.size == self.size)
        skips = (num_skipped(self.shape.layers, run.skip) for run in runs)
        return [(costs.rollout(batch, skipped) + update).times(training.steps) for skipped in skips]

    def evaluate(self) -> list[Work] | None:
        """The work of each policy and batch of benchmarks; None if the size of a benchmark is not known."""
        counts = {
            name: problem_count(source, self.results / f"data/test/{name}.json", self.lock)
            for name, source in self.config.benchmarks.items()
        }
        if None in counts.values():
            return None
        policies = len(stages(self.config)) + sum(run.size == self.size for run in all_runs(self.config))
        jobs = [
            sum((self._benchmark(counts[name] or 0) for name in names), Work())
            for names in benchmark_batches(self.config)
        ]
        return jobs * policies

    def _benchmark(self, problems: int) -> Work:
        evaluation = self.config.evaluation
        answered = Work()
        for group in (1, evaluation.samples_per_problem):
            prompts = min(problems, evaluation.batch_problems)
            batch = self._batch(prompts, group, evaluation.max_new_tokens, evaluation.max_prompt_tokens)
            answered += self._costs.rollout(batch).times(ceil(problems / evaluation.batch_problems))
        return answered

    def throughput(self) -> list[Work]:
        """The work of each skip; completions have a fixed length."""
        options, costs = self.config.throughput, self._costs
        most = self.config.training.max_prompt_tokens
        batch = Batch(
            options.problems, min(self.assumed.prompt_tokens, most), options.completions_per_problem,
            options.new_tokens, options.new_tokens,
        )  # fmt: skip
        pairs = options.warmup_pairs + options.pairs
        skips = (num_skipped(self.shape.layers, skip) for skip in {0, *self.config.skips})
        return [(costs.rollout(batch) + costs.rollout(batch, skipped)).times(pairs) for skipped in skips]

    def step_speed(self) -> list[Work]:
        """The work of each skip but 0; completions have a fixed length, and no group is left out of the update."""
        options, training, costs = self.config.step_speed, self.config.training, self._costs
        length = options.new_tokens or training.max_new_tokens
        batch = Batch(
            training.problems_per_step, min(self.assumed.prompt_tokens, training.max_prompt_tokens),
            training.completions_per_problem, length, length,
        )  # fmt: skip
        full = costs.rollout(batch) + costs.update(batch, training).times(2)
        skips = (num_skipped(self.shape.layers, skip) for skip in self.config.skips if skip)
        return [(full + costs.rollout(batch, skipped)).times(options.warmup_pairs + options.pairs) for skipped in skips]

    def gradients(self) -> list[Work]:
        """The work of the on-policy estimates, two sets of them, and of each skip but 0."""
        options, training = self.config.gradients, self.config.training
        batch = self._batch(
            options.problems_per_batch, options.completions_per_problem, training.max_new_tokens,
            training.max_prompt_tokens,
        )  # fmt: skip
        skips = (num_skipped(self.shape.layers, skip) for skip in self.config.skips if skip)
        corrections = len(options.corrections)
        sets = [self._costs.gradients(batch, 0, 1, training).times(2)]
        sets += [self._costs.gradients(batch, skipped, corrections, training) for skipped in skips]
        return [work.times(options.batches) for work in sets]

    def model(self) -> list[Work]:
        """The work of pre-training, in float32 (3 forward passes per batch); other models are only fetched."""
        model, pretraining = self.config.sizes[self.size], self.config.pretraining
        if isinstance(model, FetchedModel) or pretraining is None:
            return [Work()]
        tokens = self.assumed.prompt_tokens + self.assumed.length * self.config.training.max_new_tokens
        batch = Batch(pretraining.batch_size, 0, 1, tokens, ceil(tokens))
        return [self._costs.pretraining_step(batch).times(model.pretraining_steps)]

    def warmup(self) -> list[Work]:
        """The work of each warm-up; layers that it drops are counted."""
        warmup, training = self.config.warmup, self.config.training
        if warmup is None:
            return []
        part = warmup.solutions_per_micro_batch or warmup.solutions_per_batch
        batch = self._batch(
            warmup.solutions_per_batch, 1, training.max_new_tokens, training.max_prompt_tokens
        )  # fmt: skip
        once = training.model_copy(
            update={"problems_per_micro_batch": part, "updates_per_rollout": 1, "kl_coefficient": 0.0, "lora": None}
        )
        return [self._costs.update(batch, once).times(warmup.steps)] * warmups(self.config)

    def influence(self) -> list[Work]:
        """The work of each model."""
        prompts, most = self.config.layer_choice.influence_problems, self.config.training.max_prompt_tokens
        read = self._costs.read(prompts, min(self.assumed.prompt_tokens, most))
        return [read.times(self.shape.layers + 1)] * len(influence_models(self.config))

    def nestability(self) -> list[Work]:
        """The work of each model and skip, 0 too, where one way to choose layers stands for all."""
        options, training, costs = self.config.nestability, self.config.training, self._costs
        if options is None:
            return []
        batch = self._batch(
            options.problems_per_batch, options.completions_per_problem, training.max_new_tokens,
            training.max_prompt_tokens,
        )  # fmt: skip
        works = []
        for skip in sorted({0, *self.config.skips}):
            rollout = costs.rollout(batch, num_skipped(self.shape.layers, skip))
            ways = len(options.strategies) if skip else 1
            works.append((rollout + costs.forward(batch)).times(ways * options.batches))
        return works * len(measured_models(self.config))


def warmups(config: Config) -> int:
    """How many warm-ups a size has: one with the settings, and one without layer drop if it is measured."""
    if config.warmup is None:
        return 0
    return 1 + int(config.nestability is not None and config.nestability.without_layer_drop)


KINDS: tuple[JobKind, ...] = (
    "model", "warmup", "train", "evaluate", "throughput", "step_speed", "gradients", "influence", "nestability",
)  # fmt: skip


def plan_jobs(
    config: Config, shapes: dict[str, Shape | None], assumed: Assumptions, results: Path, lock: HubLock
) -> Iterator[Jobs]:
    """The jobs of every size and kind."""
    counts = {
        "model": 1,
        "warmup": warmups(config),
        "throughput": len({0, *config.skips}),
        "step_speed": len({*config.skips} - {0}),
        "gradients": 1 + len({*config.skips} - {0}),
        "influence": len(influence_models(config)),
        "nestability": len(measured_models(config)) * len({0, *config.skips}),
    }
    for size, shape in shapes.items():
        runs = sum(run.size == size for run in all_runs(config))
        counts |= {"train": runs, "evaluate": (len(stages(config)) + runs) * len(benchmark_batches(config))}
        for kind in (kind for kind in KINDS if counts[kind]):
            works = None
            if shape is not None:
                works = getattr(Planner(config, size, shape, assumed, results, lock), kind)()
            fetched = kind == "model" and isinstance(config.sizes[size], FetchedModel)
            gpus = 0 if config.device == "cpu" or fetched else job_resources(config, size, kind).gpu
            devices = max(gpus, 1)
            start = 0.0 if fetched else assumed.startup
            total = None
            if works is not None:
                # The best case: with n GPUs a job computes for an nth of the time.
                total = sum(works, Work()) + Work(seconds=devices * start * len(works))
            longest = max((work.seconds / devices + start for work in works or ()), default=0.0)
            yield Jobs(size, kind, counts[kind], gpus, total, longest)
