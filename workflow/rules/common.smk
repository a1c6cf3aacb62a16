# Shared by all rules: the checked configuration, paths, and which source files a rule's result depends on.
import os
import re
import shlex
import sys
from pathlib import Path

from nested_reft.config import CORRECTIONS, PRETRAINED, ConfigError, HubModel, Run
from nested_reft.config import benchmark_batches, parse_config, run_table
from nested_reft.config import jobs
from nested_reft.report.catalogue import FIGURES, PRESENTATION_TABLES, TIDY_TABLES
from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

# Jobs use the environment that Snakemake itself runs in, activated or not.
shell.prefix(f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; ")

try:
    CONFIG = parse_config(
        config, " and ".join(map(str, workflow.configfiles)) or "--config"
    )
except ConfigError as error:
    raise WorkflowError(str(error)) from None

# With --software-deployment-method conda the environment that was made from environment.yml, by its name. Without, the
# file: Snakemake keeps its text beside each result, and for a name it would call conda, which need not be there.
ENVIRONMENT = (
    "nested-reft"
    if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
    else "../../environment.yml"
)
RESULTS = f"results/{CONFIG.experiment}"
RUNS = run_table(CONFIG)
SKIPS = sorted({0, *CONFIG.skips})
DATASETS = {"train": list(CONFIG.datasets), "test": list(CONFIG.benchmarks)}
RUN_PATH = "{size}/{dataset}/{correction}/skip{skip}/seed{seed}"
GPUS = 1 if CONFIG.device == "cuda" else 0
# Relative to the working directory, as the source files below: a moved clone stays up to date.
CONFIG_FILES = [os.path.relpath(path) for path in workflow.configfiles[-1:]]
CONFIG_OPTION = "".join(
    f"--config-file {shlex.quote(path)}"
    for path in CONFIG_FILES
    if path != "config/config.yaml"
)


def one_of(values):
    """A wildcard constraint that lets through exactly these values."""
    return "|".join(re.escape(str(value)) for value in values)


CONSTRAINTS = dict(
    role="train|test",
    problems=one_of([*CONFIG.datasets, *CONFIG.benchmarks]),
    size=one_of(CONFIG.sizes),
    dataset=one_of(CONFIG.datasets),
    benchmark=one_of(CONFIG.benchmarks),
    correction=one_of(CORRECTIONS),
    skip=one_of(SKIPS),
    seed=one_of(CONFIG.seeds),
    figure=one_of(FIGURES),
    # What was done to a model, as a path: nothing, or one run of the table (without its size).
    tuning=one_of([PRETRAINED, *{run.path.split("/", 1)[1]: None for run in RUNS}]),
)


def source(*names):
    """Source files of the package, relative to the working directory if they can be: a moved clone stays up to date."""
    package = Path(workflow.main_snakefile).resolve().parent / "src/nested_reft"
    files = [path for name in names for path in sorted(package.glob(name))]
    if len(files) < len(names):
        raise WorkflowError(f"no source file for one of {names} in {package}")
    return [os.path.relpath(path) for path in files]


# What each result depends on. Drawing code is in none but the report's, so that editing a figure retrains nothing.
CORE = ["core/skipping.py", "core/rollout.py"]
TASKS = ["tasks/policy.py", "tasks/prompts.py"]
GRADING = [
    "tasks/grading.py",
    "tasks/answers.py",
    "tasks/extraction.py",
    "tasks/symbolic.py",
    "tasks/grading_worker.py",
]
SOURCES = {
    "data": source(
        "tasks/problems.py", "tasks/records.py", "tasks/hub.py", "tasks/mirror.py"
    ),
    "pretrain": source(
        "training/pretrain.py",
        "tasks/problems.py",
        "tasks/prompts.py",
        "core/skipping.py",
    ),
    "train": source(
        "training/trainer.py",
        "training/checkpoint.py",
        "core/*.py",
        "seeding.py",
        *TASKS,
        *GRADING,
    ),
    "evaluate": source(
        "evaluation/evaluate.py", "core/rollout.py", "seeding.py", *TASKS, *GRADING
    ),
    "throughput": source("evaluation/throughput.py", "seeding.py", *CORE, *TASKS),
    "collect": source("report/collect.py", "report/records.py", "report/statistics.py"),
    "tables": source("report/tables.py", "report/effects.py", "report/statistics.py"),
    "claims": source("report/claims.py", "report/effects.py", "report/statistics.py"),
}
STYLE = source(
    "report/figures.py", "report/style.py", "report/effects.py", "report/statistics.py"
)


def run_of(wildcards):
    """The row of the run table that a rule's wildcards name."""
    run = Run(
        size=wildcards.size,
        dataset=wildcards.dataset,
        correction=wildcards.correction,
        skip=int(wildcards.skip),
        seed=int(wildcards.seed),
    )
    if run not in RUNS:
        raise WorkflowError(
            f"{run.path} is not a run of {RESULTS}: skip 0 is the baseline and has one correction"
        )
    return run


def tuned_run(wildcards):
    """The run that `tuning` names, or None for the pre-trained model."""
    path = f"{wildcards.size}/{wildcards.tuning}"
    return next((run for run in RUNS if run.path == path), None)


def policy_folder(wildcards):
    """The folder of the policy that an evaluation loads."""
    run = tuned_run(wildcards)
    return (
        f"{RESULTS}/runs/{run.path}/policy"
        if run
        else f"{RESULTS}/models/{wildcards.size}"
    )


def checked_sources():
    """The provenance of everything that is downloaded or generated: all of it stands before any training starts."""
    data = [
        f"{RESULTS}/data/{role}/{name}.json"
        for role, names in DATASETS.items()
        for name in names
    ]
    fetched = [
        size for size, model in CONFIG.sizes.items() if isinstance(model, HubModel)
    ]
    return data + [f"{RESULTS}/models/{size}.json" for size in fetched]


def policies():
    """The folder of every evaluated policy under `evaluations/`."""
    return [f"{size}/{PRETRAINED}" for size in CONFIG.sizes] + [
        run.path for run in RUNS
    ]


def all_evaluations():
    return [
        f"{RESULTS}/evaluations/{policy}/{name}.json"
        for policy in policies()
        for name in CONFIG.benchmarks
    ]


def all_metrics():
    return [f"{RESULTS}/runs/{run.path}/metrics.jsonl" for run in RUNS]


def all_throughput():
    return [
        f"{RESULTS}/throughput/{size}/skip{skip}.json"
        for size in CONFIG.sizes
        for skip in SKIPS
    ]


def rules_of_figures():
    return [
        f"{RESULTS}/figures/{name}.{kind}"
        for name in FIGURES
        for kind in ("png", "svg")
    ]


def rules_of_tables():
    names = [*TIDY_TABLES, *PRESENTATION_TABLES, "claims"]
    written = [f"{RESULTS}/tables/{name}.csv" for name in names]
    return written + [
        f"{RESULTS}/tables/{name}.md" for name in (*PRESENTATION_TABLES, "claims")
    ]
