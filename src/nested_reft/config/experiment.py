"""The experiment's configuration: typed, frozen, and strict about keys.

`load_config` reads a YAML file, `parse_config` checks a mapping; both raise `ConfigError`, whose text is one line
that names the key, what is wrong with it, and what would be right. `run_table` lists the training runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, field_validator, model_validator

from nested_reft.config.sources import Model, Pretraining, Problems, ScratchModel
from nested_reft.config.strict import ConfigError, Positive, Strict, parse

Correction = Literal[
    "base", "unit", "retrace", "retrace_trace", "is_token", "is_sequence", "tis_token", "tis_sequence",
    "mask_token", "mask_sequence", "gspo", "topr",
]  # fmt: skip
CORRECTIONS: tuple[str, ...] = get_args(Correction)
# Which parameters each formula has; `core.corrections` holds their defaults.
CORRECTION_PARAMETERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(CORRECTIONS, ()),
    **dict.fromkeys(("base", "gspo"), ("clip_low", "clip_high")),
    **dict.fromkeys(("retrace", "retrace_trace"), ("lambda",)),
    **dict.fromkeys(("tis_token", "tis_sequence"), ("C",)),
    **dict.fromkeys(("mask_token", "mask_sequence"), ("lo", "hi")),
}
# The baseline is not a trainer of its own: it is this correction at skip 0, where the ratio is 1.
BASELINE_CORRECTION: Correction = "base"
PRETRAINED = "pretrained"

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.]*$")]
Percent = Annotated[int, Field(ge=0, lt=100)]


class Prompt(Strict):
    """`plain` ends the question with `suffix`; `chat` applies the model's own chat template with `system`."""

    style: Literal["plain", "chat"]
    system: str | None = None
    suffix: str = ""


class CorrectionParams(Strict):
    """Parameters of a correction; only those of CORRECTION_PARAMETERS may be given (checked by `Config`)."""

    lambda_: Annotated[float, Field(gt=0, le=1)] | None = Field(None, alias="lambda")
    C: Annotated[float, Field(gt=0)] | None = None
    lo: Annotated[float, Field(ge=0)] | None = None
    hi: Annotated[float, Field(gt=0)] | None = None
    clip_low: Annotated[float, Field(gt=0, lt=1)] | None = None
    clip_high: Annotated[float, Field(gt=0)] | None = None

    def given(self) -> dict[str, float]:
        """The parameters that were set, under the names of the formulas."""
        return self.model_dump(by_alias=True, exclude_none=True)


class Training(Strict):
    """One reinforced fine-tuning run; the same for the baseline and for every nested run."""

    steps: Positive
    problems_per_step: Positive
    completions_per_problem: Annotated[int, Field(ge=2)]
    max_new_tokens: Positive
    max_prompt_tokens: Positive = 1024
    temperature: Annotated[float, Field(gt=0)] = 1.0
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    advantage_baseline: Literal["group_mean", "leave_one_out"] = "group_mean"
    advantage_std: bool = True
    normalisation: Literal["grpo", "dr_grpo", "bnpo"] = "grpo"
    border: Annotated[int, Field(ge=0)] = 1
    problems_per_micro_batch: Positive | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    checkpoint_every: Positive = 10


class Evaluation(Strict):
    """Greedy and sampled accuracy; `headline` says which of the two the claims are about.

    `benchmarks_per_job` above 1 spares small models the start-up of a process for each benchmark.
    """

    samples_per_problem: Positive
    temperature: Annotated[float, Field(gt=0)] = 1.0
    max_new_tokens: Positive
    max_prompt_tokens: Positive = 1024
    batch_problems: Positive = 64
    benchmarks_per_job: Positive = 1
    headline: Literal["greedy", "sampled"] = "sampled"
    parity_margin: Annotated[float, Field(gt=0, lt=1)] = 0.05
    seed: int = 0


class Throughput(Strict):
    """Paired, interleaved timing of rollouts; every completion has exactly `new_tokens` tokens."""

    problems: Positive
    completions_per_problem: Positive
    new_tokens: Positive
    pairs: Annotated[int, Field(ge=3)] = 9
    warmup_pairs: Positive = 1
    seed: int = 0


class Config(Strict):
    """A whole experiment: the axes of the run table and the settings that all its runs share."""

    experiment: Name
    device: Literal["cpu", "cuda"] = "cpu"
    threads_per_job: Positive = 1
    sizes: dict[Name, Model] = Field(min_length=1)
    datasets: dict[Name, Problems] = Field(min_length=1)
    benchmarks: dict[Name, Problems] = Field(min_length=1)
    skips: tuple[Percent, ...] = Field(min_length=1)
    corrections: dict[Correction, CorrectionParams] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    prompt: Prompt
    pretraining: Pretraining | None = None
    training: Training
    evaluation: Evaluation
    throughput: Throughput

    @field_validator("skips", "seeds")
    @classmethod
    def _no_repeats(cls, values: tuple[int, ...]) -> tuple[int, ...]:
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
    def _parameters_belong_to_their_correction(self) -> Config:
        for correction, params in self.corrections.items():
            for key in params.given():
                if key not in CORRECTION_PARAMETERS[correction]:
                    known = ", ".join(CORRECTION_PARAMETERS[correction]) or "none"
                    raise ValueError(
                        f"corrections.{correction}.{key}: '{correction}' has no such parameter; it has: {known}"
                    )
        return self

    @model_validator(mode="after")
    def _is_runnable(self) -> Config:
        if BASELINE_CORRECTION not in self.corrections:
            raise ValueError(f"corrections: needs '{BASELINE_CORRECTION}', which at skip 0 is the baseline ReFT")
        if self.pretraining is None and any(isinstance(m, ScratchModel) for m in self.sizes.values()):
            raise ValueError("pretraining: is missing, and sizes has a model with 'source: scratch'")
        border = self.training.border
        for size, model in self.sizes.items():
            for skip in self.skips:
                count, eligible = skipped_count(model.layers, skip), max(model.layers - 2 * border, 0)
                if skip and not count:
                    raise ValueError(f"skips: {skip} % of the {model.layers} layers of '{size}' rounds to no layer")
                if count > eligible:
                    raise ValueError(
                        f"skips: {skip} % of the {model.layers} layers of '{size}' is {count}, but border "
                        f"{border} leaves only {eligible} that may be skipped; lower the skip or the border"
                    )
        return self


def skipped_count(num_layers: int, skip_percent: int) -> int:
    """k = round(skip_percent / 100 * L), the number of layers that a behaviour model leaves out."""
    return round(skip_percent / 100 * num_layers)


class Run(Strict):
    """One row of the run table; `size/dataset/correction/skipK/seedN` is its folder under `runs/`."""

    size: str
    dataset: str
    correction: Correction
    skip: int
    seed: int

    @property
    def path(self) -> str:
        return f"{self.size}/{self.dataset}/{self.correction}/skip{self.skip}/seed{self.seed}"


def run_table(config: Config) -> list[Run]:
    """All training runs: one baseline (skip 0) and every correction at every other skip, per size, data and seed."""
    cells: list[tuple[Correction, int]] = [(BASELINE_CORRECTION, 0)]
    cells += [(correction, skip) for skip in sorted(config.skips) if skip for correction in config.corrections]
    return [
        Run(size=size, dataset=dataset, correction=correction, skip=skip, seed=seed)
        for size in config.sizes
        for dataset in config.datasets
        for correction, skip in cells
        for seed in config.seeds
    ]


def benchmark_batches(config: Config) -> list[tuple[str, ...]]:
    """The benchmarks in the order of the config, as many together as one evaluation job takes."""
    names, size = list(config.benchmarks), config.evaluation.benchmarks_per_job
    return [tuple(names[first : first + size]) for first in range(0, len(names), size)]


# --- reading ----------------------------------------------------------------------------------------------------


def parse_config(settings: Mapping[str, Any], where: str = "config") -> Config:
    """The experiment in a mapping, or a ConfigError."""
    return parse(Config, settings, where)


def load_config(path: str | Path) -> Config:
    """The experiment in a YAML file, or a ConfigError that names the file."""
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; config/ has config.yaml, smoke.yaml and paper.yaml") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: must hold keys and values, got {type(settings).__name__}")
    return parse_config(settings, str(path))
