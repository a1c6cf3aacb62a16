"""The experiment's configuration: typed, frozen, strict about keys; see `config/README.md` for every key.

`experiment` holds the whole experiment and its run table, `sources` where problems and models come from, `jobs` what
each rule of the pipeline hands to its sub-command, `strict` and `errors` the checking.
"""

from nested_reft.config.experiment import (
    BASELINE_CORRECTION,
    CORRECTIONS,
    PRETRAINED,
    Config,
    CorrectionParams,
    Evaluation,
    Prompt,
    Run,
    Throughput,
    Training,
    benchmark_batches,
    load_config,
    parse_config,
    run_table,
    skipped_count,
)
from nested_reft.config.sources import (
    GeneratedProblems,
    HubModel,
    HubProblems,
    Model,
    Pretraining,
    Problems,
    ScratchModel,
)
from nested_reft.config.strict import ConfigError, Strict, parse, settings_hash

__all__ = [
    "BASELINE_CORRECTION",
    "CORRECTIONS",
    "PRETRAINED",
    "Config",
    "ConfigError",
    "CorrectionParams",
    "Evaluation",
    "GeneratedProblems",
    "HubModel",
    "HubProblems",
    "Model",
    "Pretraining",
    "Problems",
    "Prompt",
    "Run",
    "ScratchModel",
    "Strict",
    "Throughput",
    "Training",
    "benchmark_batches",
    "load_config",
    "parse",
    "parse_config",
    "run_table",
    "settings_hash",
    "skipped_count",
]
