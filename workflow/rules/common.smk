# Shared by all rules: the checked configuration, paths, and the source files that a rule's result depends on.
import os
import re
import shlex
import sys
from pathlib import Path

from nested_reft.config.method import read_ablation
from nested_reft.config.rollout_engine import engine_modules
from nested_reft.config.run import PRETRAINED, WARMED_UP, WITHOUT_LAYER_DROP
from nested_reft.config.sources import FetchedModel, HubProblems
from nested_reft.config.strict import ConfigError
from nested_reft.config.experiment import (
    benchmark_batches,
    layer_choices,
    measured_models,
    parse_config,
    problem_sets,
    read_settings,
    stages,
    vllm_of,
    with_device,
)
from nested_reft.config.run_table import all_runs
from nested_reft.config import jobs
from nested_reft.core.corrections import CORRECTIONS
from nested_reft.core.layer_selection import SELECTIONS
from nested_reft.runtime.gpus import visible_gpus
from nested_reft.runtime.sources import source_files
from nested_reft.data.lock import no_lock
from nested_reft.report.registry import (
    CLAIM_TABLES,
    CLAIMS,
    FIGURE_KINDS,
    FIGURES,
    PAGES,
    PRESENTATION_TABLES,
    TABLE_KINDS,
    TABLES,
    TIDY_TABLES,
    asked,
)
from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod, SharedFSUsage

try:
    for path in workflow.configfiles:
        read_settings(
            path
        )  # Snakemake has read it already, but silently takes the second of two equal keys
    SAID = workflow.config_settings.config
    FILES = [*map(str, workflow.configfiles), *(["--config"] if SAID else [])]
    CONFIG = with_device(
        parse_config(config, " and ".join(FILES) or "config", SAID),
        gpus=len(visible_gpus(os.environ) or ()),
    )
except ConfigError as error:
    raise WorkflowError(str(error)) from None

# With --software-deployment-method conda, the name of the environment that was made from environment.yml. Without it,
# the file: Snakemake keeps its text beside each result; for a name it would call conda, which may not be installed.
ENVIRONMENT = (
    "nested-reft"
    if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
    else "../../environment.yml"
)
# Which files the hub's data sets and models consist of. Not an input of the jobs that fetch, or it would rerun them.
LOCK = lock_path()
RESULTS = f"results/{CONFIG.experiment}"
# The same with the prefix that a workflow gives this one as its module; Snakemake adds it to inputs and outputs only.
PREFIXED_RESULTS = workflow.modifier.path_modifier.replace_prefix(RESULTS)
RUNS = all_runs(CONFIG)
SKIPS = sorted({0, *CONFIG.skips})
PROBLEMS = problem_sets(CONFIG)
# What reinforcement starts from, and all that is measured without it: the unmodified model, or after the warm-up.
STAGE = stages(CONFIG)[-1]
WARMUPS = (WARMED_UP, WITHOUT_LAYER_DROP)
STAGE_FOLDERS = {PRETRAINED: "models", **{name: name for name in WARMUPS}}
# What writes the completions of training, evaluation and timed steps, beside the sources of their sub-commands.
ENGINE = engine_modules(vllm_of(CONFIG))
START = f"{RESULTS}/{STAGE_FOLDERS[STAGE]}/{{size}}"
RUN_PATH = "{size}/{dataset}/{correction}/{rollout}/seed{seed}"


def whole_config(wildcards):
    """The configuration for a rule's parameters. A function: Snakemake would take braces in a text for wildcards."""
    return CONFIG.canonical_json()


def one_of(values):
    """A wildcard constraint that matches exactly these values."""
    return "|".join(re.escape(str(value)) for value in values)


CONSTRAINTS = dict(
    role=one_of(PROBLEMS),
    problems=one_of(
        dict.fromkeys(name for named in PROBLEMS.values() for name in named)
    ),
    size=one_of(CONFIG.sizes),
    dataset=one_of(CONFIG.datasets),
    benchmark=one_of(CONFIG.benchmarks),
    correction=one_of(CORRECTIONS),
    skip=one_of(SKIPS),
    warmup=one_of(WARMUPS),
    stage=one_of(STAGE_FOLDERS),
    # Which layers are left out: skip25, or skip25-static if they are not drawn uniformly for each batch.
    rollout=one_of(dict.fromkeys(run.rollout for run in RUNS)),
    strategy=one_of(SELECTIONS),
    border=r"\d+",
    seed=one_of(CONFIG.seeds),
    figure=one_of(FIGURES),
    page=one_of(PAGES),
    # A policy of a size, as a path: the model before reinforcement, or one run of the table.
    policy=one_of(
        [*stages(CONFIG), *{run.path.split("/", 1)[1]: None for run in RUNS}]
    ),
)


# Whether jobs see this folder. If they do not (Kubernetes), no file of the clone can be their input.
SHARED_FOLDER = SharedFSUsage.INPUT_OUTPUT in workflow.storage_settings.shared_fs_usage


def sources(command, *modules):
    """The source files that a sub-command's results depend on, by the imports of its module (and of other modules).

    Relative to the working directory: a moved clone stays up to date. Local: a module's prefix is not theirs. Empty if
    jobs do not see this folder.
    """
    if not SHARED_FOLDER:
        return []
    entry = f"nested_reft.commands.{command.replace('-', '_')}"
    files = source_files("nested_reft.cli", entry, *modules)
    return [local(os.path.relpath(path)) for path in files]


def data_command(wildcards):
    """The sub-command that makes a set of problems."""
    return (
        "fetch-data"
        if isinstance(PROBLEMS[wildcards.role][wildcards.problems], HubProblems)
        else "generate"
    )


def model_command(wildcards):
    """The sub-command that makes a model."""
    return (
        "fetch-model"
        if isinstance(CONFIG.sizes[wildcards.size], FetchedModel)
        else "pretrain"
    )


def model_sources(command):
    """The sources of a model. One that was fetched stays, whatever changes in the code: it may have many GB, and `check`
    verifies it against the lock file."""
    files = sources(command)
    return [ancient(file) for file in files] if command == "fetch-model" else files


def lock_option(command):
    """The option of a sub-command that fetches: it verifies against the lock file."""
    return f"--lock {shlex.quote(LOCK)}" if command.startswith("fetch") else ""


def find_run(path):
    """The row of the run table with this path, or None."""
    return next((run for run in RUNS if run.path == path), None)


def run_of(wildcards):
    """The row of the run table that a rule's wildcards name."""
    path = RUN_PATH.format(**wildcards)
    run = find_run(path)
    if run is None:
        raise WorkflowError(
            f"{path} is not a run of {RESULTS}: skip 0 is the baseline and has one correction"
        )
    return run


def run_of_policy(wildcards):
    """The run whose policy is evaluated, or None for a model before reinforcement."""
    return find_run(f"{wildcards.size}/{wildcards.policy}")


def policy_folder(wildcards):
    """The folder of the policy that an evaluation loads."""
    run = run_of_policy(wildcards)
    return (
        f"{RESULTS}/runs/{run.path}/policy"
        if run
        else f"{RESULTS}/{STAGE_FOLDERS[wildcards.policy]}/{wildcards.size}"
    )


def checked_sources():
    """The provenance of everything that is downloaded or generated: all of it exists before any training starts."""
    data = [
        f"{RESULTS}/data/{role}/{name}.json"
        for role, names in PROBLEMS.items()
        for name in names
    ]
    fetched = [
        size for size, model in CONFIG.sizes.items() if isinstance(model, FetchedModel)
    ]
    return data + [f"{RESULTS}/models/{size}.json" for size in fetched]


def lock_file():
    """The lock file as an input, if something in this experiment is fetched."""
    sources = [
        *CONFIG.sizes.values(),
        *(problems for named in PROBLEMS.values() for problems in named.values()),
    ]
    if not any(isinstance(source, FetchedModel | HubProblems) for source in sources):
        return []
    if not Path(LOCK).exists():
        raise WorkflowError(str(no_lock(LOCK)))
    # `check` runs where Snakemake does.
    return [local(LOCK)]


def stage_folder(wildcards):
    """The folder of a model that is measured before any reinforcement."""
    return f"{RESULTS}/{STAGE_FOLDERS[wildcards.stage]}/{wildcards.size}"


def influence_of(strategies, size, stage=STAGE):
    """The ablation influence of a model's layers, if one of these strategies reads it; other jobs do not wait for it."""
    needed = read_ablation(strategies)
    return [f"{RESULTS}/influence/{stage}/{size}.json"] if needed else []


def measured(wildcards):
    """What a measurement is of: a size, and perhaps a stage, a skip, a strategy and a border."""
    return {
        key: int(value) if key in ("skip", "border") else value
        for key, value in wildcards.items()
    }


def optional_files(wildcards, input):
    """The options for the files that not all trainings and measurements read."""
    return " ".join(
        f"--{name.replace('_', '-')} {input[name]}"
        for name in ("on_policy", "influence")
        if input.get(name)
    )
