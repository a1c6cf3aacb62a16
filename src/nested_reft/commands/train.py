"""`nested-reft train`: one reinforced fine-tuning run."""

from __future__ import annotations

import argparse
import shutil
from contextlib import ExitStack
from typing import Any

import torch

from nested_reft.commands.loading import load_trained, read_influence
from nested_reft.config.records.record import write_record
from nested_reft.config.records.training import ManifestRecord, write_steps
from nested_reft.config.rollout_engine import engine_modules
from nested_reft.config.strict import parse
from nested_reft.config.training import TrainSettings
from nested_reft.grading.grader import timeouts
from nested_reft.rollouts.policy import save_policy
from nested_reft.rollouts.samplers import sampler_name
from nested_reft.runtime.manifest import build_manifest
from nested_reft.runtime.progress import Progress, clock
from nested_reft.runtime.sources import source_digest
from nested_reft.training.checkpoint import remove_checkpoints, run_lock
from nested_reft.training.loop import Job
from nested_reft.training.metrics import step_alarms
from nested_reft.training.run import train
from nested_reft.training.stopping import stop_on_signals
from nested_reft.training.world import init_distributed


def run(options: argparse.Namespace) -> None:
    """Write final policy, metrics of every step and manifest; checkpoints are deleted once all of these exist."""
    settings = parse(TrainSettings, options.settings, "--settings")
    torch.set_num_threads(options.threads)
    training, folder = settings.training, options.checkpoints / settings.key
    progress = Progress(f"train {settings.run.path}")

    def report(row: dict[str, Any], seconds_left: float) -> None:
        progress.log(
            f"step {row['step']}/{training.steps}  reward {row['reward']:.3f}  "
            f"{row['tokens_per_s']:,.0f} tokens/s (rollout {row['rollout_tokens_per_s']:,.0f})  "
            f"ess {row['ess']:.3f}  {clock(seconds_left)} left"
        )

    with init_distributed(settings.device) as world, ExitStack() as stack:
        with stop_on_signals() as stop:
            with world.raise_on_all_ranks():
                if world.is_main:
                    stack.enter_context(run_lock(folder))
                policy, problems, make_sampler = load_trained(settings, options)
                influence = read_influence((settings.run.strategy,), options, policy)
                code = source_digest(__name__, *engine_modules(settings.vllm))
            job = Job(folder, code, report, progress.log, stop.is_set, world)
            policy, done = train(settings, policy, problems, job, influence, make_sampler)
        if not world.is_main:
            return
        shutil.rmtree(options.output, ignore_errors=True)
        policy.model.to(getattr(torch, settings.training.dtype))
        save_policy(policy, options.output)
        write_steps(options.metrics, done.metrics)
        alarms = [alarm for row in done.metrics for alarm in step_alarms(row, settings.training.alarms)]
        manifest = build_manifest(
            options.settings,
            settings.key,
            wall_seconds=done.seconds,
            rollout_engine=sampler_name(settings.vllm),
            alarms=alarms,
            answers_cut_off=timeouts(),
        )
        write_record(options.manifest, ManifestRecord(**manifest))
        if alarms:
            steps = len({alarm["step"] for alarm in alarms})
            progress.log(f"alarms in {steps} of {len(done.metrics)} steps: see {options.manifest}")
        remove_checkpoints(folder)
