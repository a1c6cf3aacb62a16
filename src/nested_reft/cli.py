"""`nested-reft`: one sub-command for each rule of the pipeline.

Settings come as one JSON text (the classes of `config.jobs`), files as options. Every line of progress goes to
standard error, which the rules write to their log; standard output, which reaches the terminal, gets a short line now
and then, and the error if there is one. Imports stand inside the commands: `--help` must not load torch.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nested_reft import __version__

# No room, too large, or no permission: the user's to mend, unlike a file that we look for in the wrong place.
STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
Command = Callable[[argparse.Namespace], None]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nested-reft", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--version", action="version", version=f"nested-reft {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help_text: str, run: Command, settings: str, files: Sequence[str]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_text, description=help_text)
        command.set_defaults(run=run)
        if settings:
            command.add_argument("--settings", required=True, metavar="JSON", help=f"config.jobs.{settings}, as JSON")
        for file in files:
            command.add_argument(f"--{file}", required=True, type=Path, metavar="PATH")
        return command

    from nested_reft import commands as jobs
    from nested_reft import provenance

    add("data", "make or fetch one set of problems", jobs.data, "DataSettings", ("output", "provenance"))
    add("model", "pre-train or fetch one model", jobs.model, "ModelSettings", ("output", "provenance"))
    check = add("check", "sum up data and fetched models before any training starts", provenance.check, "", ("output",))
    check.add_argument("provenance", nargs="+", type=Path, metavar="PATH", help="provenance files")
    lock = add("lock", "record fetched data sets and models in the lock file", provenance.lock, "", ())
    lock.add_argument("provenance", nargs="+", type=Path, metavar="PATH", help="provenance files")
    for name in ("data", "model", "check", "lock"):
        commands.choices[name].add_argument(
            "--lock", type=Path, default=Path("config/hub.lock"), metavar="PATH", help="default %(default)s"
        )
    add("train", "one reinforced fine-tuning run", jobs.train, "TrainSettings",
        ("policy", "problems", "checkpoints", "output", "metrics", "manifest"))  # fmt: skip
    evaluate = add("evaluate", "one policy on some benchmarks", jobs.evaluate, "EvaluateSettings", ("policy",))
    for file in ("problems", "output"):
        evaluate.add_argument(f"--{file}", required=True, nargs="+", type=Path, metavar="PATH", help="one a benchmark")
    add("throughput", "rollout speed of nested views, in pairs", jobs.throughput, "ThroughputSettings",
        ("policy", "problems", "output"))  # fmt: skip
    add("gradients", "bias and variance of gradient estimates", jobs.gradients, "GradientSettings",
        ("policy", "problems", "output"))  # fmt: skip
    add("exact", "exact bias and variance on an enumerable policy", jobs.exact, "", ("output",))
    add("collect", "collect all results into tidy tables", jobs.collect, "Config", ("root",))
    add("tables", "the tables for people", jobs.tables, "Config", ("root",))
    claims = add("claims", "judge the paper's claims", jobs.claims, "Config", ("root",))
    claims.add_argument("--config-file", metavar="FILE", help="named in the commands that the table shows")
    figure = add("figure", "draw one figure", jobs.figure, "Config", ("root",))
    figure.add_argument("name")
    add("summary", "print the verdicts and where the results are", jobs.summary, "", ("root",))
    for name in ("model", "train", "evaluate", "throughput", "gradients"):
        commands.choices[name].add_argument("--threads", type=int, default=1, help="CPU threads of torch (default 1)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0, or after a one-line error 1 (75 if it stopped as asked and can go on, 130 after Ctrl-C)."""
    options = _parser().parse_args(arguments)
    from nested_reft.commands import user_errors

    try:
        options.run(options)
    except user_errors() as error:
        return _fail(options.command, str(error), getattr(error, "exit_code", 1))
    except OSError as error:
        if error.errno not in STORAGE_ERRORS:
            raise
        text = (
            f"{error.filename}: {error.strerror}; make room or permit writing there and call again: what was finished"
        )
        return _fail(options.command, f"{text} stays valid", 1)
    except KeyboardInterrupt:
        return _fail(options.command, "stopped by Ctrl-C; call again", 130)
    return 0


def _fail(command: str, text: str, code: int) -> int:
    line = f"nested-reft {command}: error: {text}"
    print(line, file=sys.stderr)
    print(line, flush=True)
    return code
