"""The experiment's configuration: typed, frozen, and strict about keys.

`load_config` reads a YAML file, `parse_config` checks a mapping; both raise `ConfigError`, whose text is one line
that names the key, what is wrong with it, and what would be right. `run_table.py` lists the training runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from nested_reft.config.errors import nearest
from nested_reft.config.evaluation import Evaluation
from nested_reft.config.gradients import Gradients
from nested_reft.config.method import Correction, LayerChoice, RunCorrections, check_layers
from nested_reft.config.nestability import Nestability
from nested_reft.config.planned import Planned
from nested_reft.config.reading import read_settings
from nested_reft.config.resources import JobKind, JobResources, SizeResources
from nested_reft.config.reward import Reward
from nested_reft.config.rollout_engine import Vllm, check_for_vllm
from nested_reft.config.run import BASELINE_CORRECTION, PRETRAINED, WARMED_UP, WITHOUT_LAYER_DROP, Stage
from nested_reft.config.sampling import Prompt
from nested_reft.config.sources import FetchedModel, HubProblems, Model, Pretraining, Problems, Role, ScratchModel
from nested_reft.config.strict import ConfigError, Name, Percent, Positive, Strict, parse
from nested_reft.config.throughput import StepSpeed, Throughput
from nested_reft.config.training import Training
from nested_reft.config.warmup import Warmup
from nested_reft.core.layer_selection import num_skipped

# What an experiment can consist of.
Part = Literal["training", "throughput", "step_speed", "gradients", "nestability"]


class Config(Strict):
    """A whole experiment: the axes of the run table and the settings that all its runs share."""

    experiment: Name
    """Names the folder of the results, `results/{experiment}/`."""
    parts: tuple[Part, ...] = Field(get_args(Part), min_length=1)
    """What is run; all else says "not run". Without `training` nothing is trained or evaluated; `nestability` needs its
    section too. No value twice."""
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """Where models run; `cuda` without a GPU is an error, never a silent run on the CPU. `auto` is `cuda` if there is a
    GPU where the workflow is started, and otherwise `cpu`: started on another kind of machine, it runs everything
    again."""
    threads_per_job: Positive = 1
    """CPU threads per job; as many jobs run in parallel as there are cores for. Jobs side by side change no number.
    The same number of threads gives the same bits; another one rounds sums differently, as another machine does
    (docs/reliability.md)."""
    sizes: dict[Name, Model] = Field(min_length=1)
    """The models by name, in the order of all tables and figures."""
    datasets: dict[Name, Problems] = Field(min_length=1)
    """What reinforcement trains on, by name; each has its own runs."""
    benchmarks: dict[Name, Problems] = Field(min_length=1)
    """What all models are tested on, by name."""
    skips: tuple[Percent, ...] = Field(min_length=1)
    """Percent of the layers that a rollout leaves out, rounded to whole layers. Skip 0, the baseline, is always run.
    For every size, each must leave out at least one layer and no more than `training.border` allows; no value twice."""
    corrections: RunCorrections
    """The corrections of the nested runs, each with its parameters or `{}`; `base` is required, as the baseline. With
    `skips`, a list of some of the top-level `skips`, a correction is run at these only."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """One run per seed; none negative, none twice. An interval over seeds needs two."""
    prompt: Prompt
    """How a question becomes a prompt, for all models."""
    reward: Reward = Reward()
    """Which answers are right."""
    pretraining: Pretraining | None = None
    """How models with `source: scratch` are made; required if there is one."""
    warmup: Warmup | None = None
    """Supervised fine-tuning before reinforcement; null: none, and reinforcement starts from the model as it is."""
    layer_choice: LayerChoice = LayerChoice()
    """How the layers to skip are chosen."""
    rollout_engine: Literal["torch", "vllm"] = "torch"
    """What writes the completions of training, of evaluation and of the steps whose speed is measured: `torch`, this
    package's own sampler, or `vllm`, which needs the extra `vllm` (docs/vllm.md). All other measurements sample with
    `torch`."""
    vllm: Vllm = Vllm()
    """What vLLM takes of a GPU."""
    training: Training
    """Reinforced fine-tuning."""
    evaluation: Evaluation
    """How accuracy is measured, and when two are on par."""
    throughput: Throughput
    """How the speed of rollouts is measured."""
    step_speed: StepSpeed = StepSpeed()
    """How the speed of whole training steps is measured."""
    gradients: Gradients
    """How bias and variance are measured and judged."""
    nestability: Nestability | None = None
    """How far nested rollouts of the models are from them before reinforcement; null: it is not measured."""
    # Both are left out of the canonical JSON: requesting more memory must not rerun any job.
    plan: Planned = Field(Planned(), exclude=True)
    """What `nested-reft plan` assumes."""
    resources: dict[Name, SizeResources] = Field({}, exclude=True)
    """What jobs request from a scheduler, by size; a size that is not named requests the defaults."""

    @field_validator("parts", "skips", "seeds")
    @classmethod
    def _no_repeats(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) != len(values):
            raise ValueError(f"has a value twice: {list(values)}")
        return values

    @field_validator("seeds")
    @classmethod
    def _seeds_fit_paths(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if min(values) < 0:
            raise ValueError(f"must not be negative: {list(values)}")
        return values

    @model_validator(mode="after")
    def _is_runnable(self) -> Config:
        if BASELINE_CORRECTION not in self.corrections:
            raise ValueError(f"corrections: needs '{BASELINE_CORRECTION}', which at skip 0 is the baseline ReFT")
        if self.pretraining is None and any(isinstance(m, ScratchModel) for m in self.sizes.values()):
            raise ValueError("pretraining: is missing, and sizes has a model with 'source: scratch'")
        for size, model in self.sizes.items():
            for skip in self.skips:
                if skip and not num_skipped(model.layers, skip):
                    raise ValueError(f"skips: {skip} % of the {model.layers} layers of '{size}' rounds to no layer")
                measured = self.nestability.strategies if self.nestability else ()
                check_layers(size, model.layers, skip, self.training.border, self.layer_choice, measured)
                for border in self.nestability.borders if self.nestability else ():
                    check_layers(size, model.layers, skip, border, LayerChoice(), measured[:1])
        if self.rollout_engine == "vllm":
            check_for_vllm(self.training, self.evaluation.rollout_precision)
        return self

    @field_validator("datasets", "benchmarks")
    @classmethod
    def _only_the_warmup_reads_solutions(cls, sets: dict[str, Problems]) -> dict[str, Problems]:
        for name, problems in sets.items():
            if isinstance(problems, HubProblems) and problems.solution is not None:
                raise ValueError(f".{name}.solution: only `warmup.datasets` have solutions; remove it")
        return sets

    @model_validator(mode="after")
    def _resources_are_of_sizes(self) -> Config:
        for size in self.resources:
            if size not in self.sizes:
                raise ValueError(f"resources.{size}: is not one of sizes, {nearest(size, self.sizes)}")
        return self

    @model_validator(mode="after")
    def _strategies_are_compared_in_the_grid(self) -> Config:
        choice = self.layer_choice
        if choice.skip is not None and choice.skip not in self.skips:
            raise ValueError(f"layer_choice.skip: {choice.skip} is not one of skips: {list(self.skips)}")
        if choice.correction is not None and choice.correction not in self.corrections:
            raise ValueError(f"layer_choice.correction: '{choice.correction}' is not one of corrections")
        if choice.correction and choice.skip and (choice.correction, choice.skip) not in nested_cells(self):
            raise ValueError(
                f"layer_choice.skip: '{choice.correction}' is not run at {choice.skip} %; add it to "
                f"corrections.{choice.correction}.skips"
            )
        return self

    @model_validator(mode="after")
    def _completions_have_probabilities(self) -> Config:
        for key in ("top_k", "top_p"):
            if self.gradients.by_completion and getattr(self.training, key) is not None:
                raise ValueError(
                    f"gradients.by_completion: needs the probabilities of all completions, which training.{key} cuts; "
                    f"remove one of them"
                )
        return self

    @model_validator(mode="after")
    def _layer_drop_can_be_left_out(self) -> Config:
        if self.nestability and self.nestability.without_layer_drop and not (self.warmup and self.warmup.layer_drop):
            raise ValueError(
                "nestability.without_layer_drop: there is no warm-up with layer drop to compare with; remove it, or "
                "set warmup.layer_drop"
            )
        return self

    @model_validator(mode="after")
    def _nestability_can_be_measured(self) -> Config:
        if self.nestability is None:
            if "nestability" in self.parts and len(self.parts) < len(get_args(Part)):
                raise ValueError(
                    "nestability: is missing, and parts names it; add the section, or remove it from parts"
                )
            return self
        if self.training.border in self.nestability.borders:
            raise ValueError(f"nestability.borders: {self.training.border} is training.border already; remove it")
        if (name := self.nestability.dataset) is not None and name not in self.datasets:
            raise ValueError(f"nestability.dataset: is not one of datasets, {nearest(name, self.datasets)}")
        return self

    @model_validator(mode="after")
    def _skips_of_corrections_are_skips(self) -> Config:
        for name, correction in self.corrections.items():
            for skip in correction.skips or ():
                if skip not in self.skips:
                    raise ValueError(f"corrections.{name}.skips: {skip} is not one of skips: {list(self.skips)}")
        run = {skip for _, skip in nested_cells(self)}
        for skip in nested_skips(self):
            if skip not in run:
                raise ValueError(
                    f"skips: no correction is run at {skip} %; remove it, or add it to a correction's skips"
                )
        return self


def vllm_of(config: Config) -> Vllm | None:
    """The settings of vLLM if it writes the completions."""
    return config.vllm if config.rollout_engine == "vllm" else None


def with_device(config: Config, gpus: int) -> Config:
    """The experiment as it runs on a machine with so many GPUs: `device` is no longer `auto`."""
    found = "cuda" if gpus else "cpu"
    return config.model_copy(update={"device": found}) if config.device == "auto" else config


def problem_sets(config: Config) -> dict[Role, dict[str, Problems]]:
    """All sets of problems by role and name."""
    warmup = config.warmup.datasets if config.warmup else {}
    return {"train": config.datasets, "test": config.benchmarks, "warmup": warmup}


def stages(config: Config) -> tuple[Stage, ...]:
    """What a model is before reinforcement, which starts from the last stage."""
    return (PRETRAINED, WARMED_UP) if config.warmup else (PRETRAINED,)


def measured_models(config: Config) -> tuple[str, ...]:
    """The models whose nestability is measured, by stage; none without `nestability`."""
    if config.nestability is None or "nestability" not in config.parts:
        return ()
    without = (WITHOUT_LAYER_DROP,) if config.nestability.without_layer_drop else ()
    return (PRETRAINED, *without, *stages(config)[1:])


def layer_choices(config: Config) -> list[tuple[int, str, int]]:
    """What is measured of each model's nestability: skip, strategy and border. At skip 0 the first strategy stands for
    all, and for all borders.
    """
    options, border = config.nestability, config.training.border
    if options is None:
        return []
    first, *others = options.strategies
    choices = [(first, border), *((name, border) for name in others), *((first, other) for other in options.borders)]
    return [(0, first, border), *((skip, *choice) for skip in nested_skips(config) for choice in choices)]


def job_resources(config: Config, size: str, kind: JobKind) -> JobResources:
    """What a job of this size and kind requests at its first try."""
    found: JobResources = getattr(config.resources.get(size, SizeResources()), kind)
    return found


def gpus_of(config: Config, size: str, kind: JobKind) -> int:
    """How many GPUs a job of this size and kind requests: none on a CPU, and none to fetch a model."""
    fetches = kind == "model" and isinstance(config.sizes[size], FetchedModel)
    return 0 if config.device == "cpu" or fetches else job_resources(config, size, kind).gpu


def nested_skips(config: Config) -> list[int]:
    """The skip settings of the nested runs, ascending; 0 is the baseline and not among them."""
    return sorted(skip for skip in config.skips if skip)


def nested_cells(config: Config) -> list[tuple[Correction, int]]:
    """The grid without the baseline: each correction with each skip that it is run at."""
    return [
        (name, skip)
        for name, correction in config.corrections.items()
        for skip in sorted(correction.skips or nested_skips(config))
    ]


def tuned_cells(config: Config) -> list[tuple[Correction, int]]:
    """Correction and skip of every cell of the grid: the baseline's, then the nested ones."""
    return [(BASELINE_CORRECTION, 0), *nested_cells(config)]


def nested_corrections(config: Config) -> tuple[Correction, ...]:
    """The corrections that have nested runs: none in an experiment of the baseline alone."""
    return tuple(dict.fromkeys(name for name, _ in nested_cells(config)))


def benchmark_batches(config: Config) -> list[tuple[str, ...]]:
    """The benchmarks in the order of the config, in groups for one evaluation job each."""
    names, size = list(config.benchmarks), config.evaluation.benchmarks_per_job
    return [tuple(names[first : first + size]) for first in range(0, len(names), size)]


def parse_config(settings: Mapping[str, Any], where: str = "config", said: Mapping[str, Any] | None = None) -> Config:
    """The experiment in a mapping, or a ConfigError (`parse` says how it names what is wrong)."""
    return parse(Config, settings, where, said)


def config_of_results(root: Path) -> Config:
    """The experiment whose results are in a folder, from the file that the workflow wrote there, or a ConfigError."""
    path = root / "settings.json"
    if not path.exists():
        raise ConfigError(f"{path}: does not exist; `snakemake {path}`, with the options of the experiment, writes it")
    return parse(Config, path.read_text(encoding="utf-8"), str(path))


def load_config(path: str | Path) -> Config:
    """The experiment in a YAML file, or a ConfigError that names the file."""
    return parse_config(read_settings(path), str(path))
