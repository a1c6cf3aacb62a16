"""`nested-reft`: one sub-command for each rule of the pipeline.

Settings come as one JSON text (the classes `...Settings` of `config`), files as options. Every line of progress goes to
standard error, which the rules write to their log; standard output, which reaches the terminal, gets the error if there
is one. A sub-command is the function `run` of the module of its name in `commands`,
which is imported when it runs: `--help` loads nothing, and needs no package of the extra `pipeline`.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from nested_reft.runtime.errors import UserError
from nested_reft.runtime.home import use_writable_caches
from nested_reft.runtime.lines import write_line
from nested_reft.runtime.out_of_memory import explain_memory, memory_errors
from nested_reft.runtime.warm import run_warm

# No room, too large, or no permission: the user's to fix, unlike a file that we look for in the wrong place.
STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)

# What is measured of one model on some problems: what it is, and the config class of its settings.
MEASUREMENTS = {
    "throughput": ("rollout speed of nested views, in pairs", "ThroughputSettings"),
    "step-speed": ("speed of whole training steps with nested rollouts, in pairs", "StepSpeedSettings"),
    "on-policy-gradients": ("the gradient estimates that others are compared with", "OnPolicySettings"),
    "gradients": ("bias and variance of gradient estimates", "GradientSettings"),
    "completion-gradients": (
        "the same problem by problem, from distinct completions",
        "CompletionGradientSettings",
    ),
    "influence": ("what leaving out each layer does to the next token", "InfluenceSettings"),
    "nestability": ("how far nested rollouts are from the model", "NestabilitySettings"),
}

# The sub-commands that import torch and transformers, and those that import what figures need: `run_warm` is for these.
COMPUTING = ("pretrain", "warmup", "train", "evaluate", *MEASUREMENTS)
REPORTING = ("collect", "tables", "claims", "figure", "page")
# What `plan` assumes; without an option, the config's section `plan` is asked, and then the device's defaults.
PLAN_OPTIONS = {
    "teraflops": "10^12 FLOP/s that a GPU, or a job's CPU threads, reach",
    "gigabytes-per-s": "speed of reading weights and cache",
    "layer-us": "microseconds to launch a layer's operations",
    "prompt-tokens": "mean length of a prompt",
    "length": "mean length of a completion, as a share of the maximum",
    "mixed": "share of the groups whose rewards are not all equal",
    "distinct": "share of one problem's completions that are distinct",
    "startup": "seconds before a job starts to compute",
}


def _gpus(text: str) -> tuple[int, int]:
    """`8x80`: eight GPUs of 80 GB."""
    count, _, size = text.partition("x")
    if not (count.isdecimal() and size.isdecimal() and int(count) and int(size)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 8x80 (eight GPUs of 80 GB)")
    return int(count), int(size)


class _Version(argparse.Action):
    """Reads the version from the package's metadata, which takes a moment, only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import nested_reft

        print(f"nested-reft {nested_reft.__version__}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nested-reft", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help_text: str, settings: str, files: Sequence[str]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_text, description=help_text)
        if settings:
            command.add_argument("--settings", required=True, metavar="JSON", help=f"config class {settings}, as JSON")
        for file in files:
            command.add_argument(f"--{file}", required=True, type=Path, metavar="PATH")
        return command

    add("generate", "make one set of problems", "DataSettings", ("output", "provenance"))
    add("fetch-data", "fetch one set of problems", "DataSettings", ("output", "provenance"))
    add("pretrain", "train one model from scratch", "ModelSettings", ("output", "provenance"))
    add("fetch-model", "fetch one model", "ModelSettings", ("output", "provenance"))
    check = add("check", "sum up data and fetched models before any training starts", "CheckSettings", ("output",))
    check.add_argument("provenance", nargs="+", type=Path, metavar="PATH", help="provenance files")
    lock = add("lock", "record fetched data sets and models in the lock file", "", ())
    lock.add_argument("provenance", nargs="+", type=Path, metavar="PATH", help="provenance files")
    for name in ("fetch-data", "fetch-model", "check", "lock"):
        commands.choices[name].add_argument(
            "--lock", type=Path, default=Path("config/hub.lock"), metavar="PATH", help="default %(default)s"
        )
    warmup_files = ("policy", "checkpoints", "output", "manifest")
    warmup = add("warmup", "supervised fine-tuning of one model on worked solutions", "WarmupSettings", warmup_files)
    warmup.add_argument("--problems", required=True, nargs="+", type=Path, metavar="PATH")
    train_files = ("policy", "problems", "checkpoints", "output", "metrics", "manifest")
    add("train", "one reinforced fine-tuning run", "TrainSettings", train_files)
    evaluate = add("evaluate", "one policy on some benchmarks", "EvaluateSettings", ("policy",))
    for file in ("problems", "output"):
        evaluate.add_argument(
            f"--{file}", required=True, nargs="+", type=Path, metavar="PATH", help="one per benchmark"
        )
    for name, (help_text, settings) in MEASUREMENTS.items():
        add(name, help_text, settings, ("policy", "problems", "output"))
    commands.choices["gradients"].add_argument("--on-policy", required=True, type=Path, metavar="PATH")
    for name in ("train", "gradients", "completion-gradients", "nestability"):
        commands.choices[name].add_argument(
            "--influence", type=Path, metavar="PATH", help="what `influence` wrote, for strategies that read it"
        )
    add("exact", "exact bias and variance on an enumerable policy", "", ("output",))
    add("collect", "collect all results into tidy tables", "", ("root",))
    add("tables", "the tables for people", "", ("root",))
    claims = add("claims", "judge the paper's claims", "", ("root",))
    claims.add_argument("--target-folder", metavar="PATH", help="of the targets in the table's commands")
    claims.add_argument("--options", metavar="TEXT", default="", help="of Snakemake in the table's commands")
    for name, text in (("figure", "draw one figure"), ("page", "write one page of the report")):
        add(name, text, "", ("root",)).add_argument("name")
    add("compare", "whether a run found what a reference run found", "", ("root", "reference"))
    summary = add("summary", "print the verdicts and where the results are", "", ("root",))
    summary.add_argument("--reference", type=Path, metavar="PATH", help="a kept run to compare with, in one line")
    add("timings", "print where the time of an experiment went, by kind of job", "", ("root",))
    plan = add("plan", "what an experiment costs: jobs, hours, disk and memory", "", ())
    plan.add_argument("--config", type=Path, default=Path("config/config.yaml"), metavar="FILE")
    for name, help_text in PLAN_OPTIONS.items():
        plan.add_argument(f"--{name}", type=float, help=help_text)
    plan.add_argument(
        "--gpus",
        type=_gpus,
        nargs="+",
        default=[(1, 80), (1, 141), (8, 80)],
        metavar="NxGB",
        help="of the memory plan; default 1x80 1x141 8x80",
    )
    on_gpu = commands.add_parser("on-gpu", help="run a command on GPUs that no other job of this machine uses")
    on_gpu.add_argument("--each", action="store_true", help="run it once for each of them, by torchrun")
    on_gpu.add_argument("count", type=int, help="how many GPUs the command gets")
    on_gpu.add_argument("job", nargs=argparse.REMAINDER, metavar="COMMAND", help="the command with its arguments")
    for name in COMPUTING:
        commands.choices[name].add_argument("--threads", type=int, default=1, help="CPU threads of torch (default 1)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0, or after a one-line error 1.

    75 if it stopped as asked and can go on, 130 after Ctrl-C, 3 if `compare` found a difference.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "on-gpu" and not options.job:
        parser.error("on-gpu: which command? nested-reft on-gpu COUNT COMMAND...")
    try:
        forked = options.command in (*COMPUTING, *REPORTING)
        if forked and (code := run_warm(f"{__name__}:main", arguments)) is not None:
            return code
        use_writable_caches()
        import_module(f"nested_reft.commands.{options.command.replace('-', '_')}").run(options)
    except UserError as error:
        return _fail(options.command, str(error), error.exit_code)
    except memory_errors() as error:
        return _fail(options.command, explain_memory(options.command, error), 1)
    except OSError as error:
        if error.errno not in STORAGE_ERRORS:
            raise
        text = f"{error.filename}: {error.strerror}; make room or permit writing there and run it again"
        return _fail(options.command, f"{text}: what was finished stays valid", 1)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "nested_reft") or package in sys.stdlib_module_names:
            raise
        text = f"the package '{package}' is not installed; run: pip install 'nested-reft[pipeline]'"
        return _fail(options.command, text, 1)
    except KeyboardInterrupt:
        return _fail(options.command, "stopped by Ctrl-C; run it again to continue", 130)
    return 0


def _fail(command: str, text: str, code: int) -> int:
    line = f"nested-reft {command}: error: {text}"
    write_line(line, sys.stderr, sys.stdout)
    return code
