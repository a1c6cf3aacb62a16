"""The experiment's configuration: typed, frozen, strict about keys.

`experiment` holds the whole experiment and its run table, `method` and `measurement` the settings of its parts,
`sources` where problems and models come from, `resources` what jobs ask for of a scheduler, `jobs` what each rule hands
to its sub-command, `strict` and `errors` the checking. The text under each key is what `config/README.md` says of it.
"""

from nested_reft.config.experiment import (
    Config,
    Run,
    all_runs,
    benchmark_batches,
    job_resources,
    load_config,
    nested_skips,
    parse_config,
    read_settings,
    run_table,
    strategy_table,
)
from nested_reft.config.measurement import Evaluation, Gradients, Throughput
from nested_reft.config.method import BASELINE_CORRECTION, PRETRAINED, Prompt, Sampling, Strategy, Training
from nested_reft.config.resources import JobKind, JobResources, SizeResources
from nested_reft.config.sources import (
    GeneratedProblems,
    HubModel,
    HubProblems,
    Model,
    ModelShape,
    Pretraining,
    Problems,
    ScratchModel,
)
from nested_reft.config.strict import ConfigError, Strict, parse, settings_hash

__all__ = [
    "BASELINE_CORRECTION",
    "PRETRAINED",
    "Config",
    "ConfigError",
    "Evaluation",
    "GeneratedProblems",
    "Gradients",
    "HubModel",
    "HubProblems",
    "JobKind",
    "JobResources",
    "Model",
    "ModelShape",
    "Pretraining",
    "Problems",
    "Prompt",
    "Run",
    "Sampling",
    "ScratchModel",
    "SizeResources",
    "Strategy",
    "Strict",
    "Throughput",
    "Training",
    "all_runs",
    "benchmark_batches",
    "job_resources",
    "load_config",
    "nested_skips",
    "parse",
    "parse_config",
    "read_settings",
    "run_table",
    "settings_hash",
    "strategy_table",
]
