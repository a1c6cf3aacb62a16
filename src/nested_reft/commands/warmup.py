"""`nested-reft warmup`: supervised fine-tuning of one model on worked solutions, before reinforcement."""

from __future__ import annotations

import argparse
import shutil
from typing import Any

import torch

from nested_reft.config.strict import parse
from nested_reft.config.warmup import WarmupSettings
from nested_reft.data.records import DataError, read_problems
from nested_reft.grading.grader import grade
from nested_reft.rollouts.policy import load_policy, save_policy, select_device
from nested_reft.runtime.files import write_json
from nested_reft.runtime.manifest import build_manifest
from nested_reft.runtime.progress import Progress, clock
from nested_reft.runtime.sources import source_digest
from nested_reft.training.checkpoint import remove_checkpoints, run_lock
from nested_reft.training.loop import Job
from nested_reft.training.stopping import stop_on_signals
from nested_reft.training.warmup import encode_solutions, warm_up


def run(options: argparse.Namespace) -> None:
    """Write the warmed-up model, and what it was made with; checkpoints are deleted once both exist."""
    settings = parse(WarmupSettings, options.settings, "--settings")
    torch.set_num_threads(options.threads)
    folder = options.checkpoints / settings.key
    progress = Progress(f"warmup {settings.size}")

    def report(row: dict[str, Any], seconds_left: float) -> None:
        progress.log(f"step {row['step']}/{settings.warmup.steps}  loss {row['loss']:.3f}  {clock(seconds_left)} left")

    with run_lock(folder):
        with stop_on_signals() as stop:
            problems = [problem for path in options.problems for problem in read_problems(path)]
            # A template that names the wrong column would teach the model to answer wrongly.
            right = sum(grade(problem.solution or "", problem.answer) for problem in problems)
            if not right:
                raise DataError(
                    f"{' '.join(map(str, options.problems))}: no solution ends with the right answer, "
                    f"{problems[0].answer!r} in {problems[0].solution!r}; correct `solution` under warmup.datasets"
                )
            policy = load_policy(options.policy, device=select_device(settings.device), prompt=settings.prompt)
            examples = encode_solutions(settings, policy, problems)
            progress.log(
                f"{len(examples)} of {len(problems)} solutions have at most {settings.max_new_tokens} tokens; "
                f"{right} end with the right answer"
            )
            code = source_digest(__name__)
            done = warm_up(settings, policy, examples, Job(folder, code, report, progress.log, stop.is_set))
        shutil.rmtree(options.output, ignore_errors=True)
        save_policy(policy, options.output)
        manifest = build_manifest(
            options.settings,
            settings.key,
            wall_seconds=done.seconds,
            solutions=len(problems),
            solutions_right=right,
            solutions_used=len(examples),
            metrics=done.metrics,
        )
        write_json(options.manifest, manifest)
        remove_checkpoints(folder)
