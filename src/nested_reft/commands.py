"""The jobs behind the sub-commands: read files, call one function of a room, write files."""

from __future__ import annotations

import argparse
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from nested_reft.config import Config, ConfigError, GeneratedProblems, HubModel, parse
from nested_reft.config.jobs import (
    DataSettings,
    EvaluateSettings,
    GradientSettings,
    ModelSettings,
    ThroughputSettings,
    TrainSettings,
)
from nested_reft.files import StorageError, write_json
from nested_reft.gpus import GpuError, run_on_gpus
from nested_reft.manifest import build_manifest
from nested_reft.progress import Progress, clock
from nested_reft.provenance import verify

Options = argparse.Namespace


def user_errors() -> tuple[type[Exception], ...]:
    """The errors whose text is one line for the user; all others are faults of ours and keep their traceback."""
    from nested_reft.report.records import ReportError
    from nested_reft.tasks.records import DataError

    errors: tuple[type[Exception], ...] = (ConfigError, DataError, GpuError, ReportError, StorageError)
    if "nested_reft.training.trainer" in sys.modules:
        from nested_reft.training.adapter import AdapterError
        from nested_reft.training.checkpoint import BusyError
        from nested_reft.training.ranks import RanksError
        from nested_reft.training.stopping import StoppedError
        from nested_reft.training.trainer import NumericalError

        errors += (AdapterError, BusyError, NumericalError, RanksError, StoppedError)
    return errors


def data(options: Options) -> None:
    """Problems of one data set or benchmark, and where they came from."""
    from nested_reft.tasks.records import write_problems

    settings = parse(DataSettings, options.settings, "--settings")
    progress = Progress(f"data {settings.role} {settings.name}")
    if isinstance(settings.problems, GeneratedProblems):
        from nested_reft.tasks.problems import generate_problems

        problems = generate_problems(settings.problems, settings.role, settings.name)
        provenance: dict[str, Any] = {"origin": "generated", "rows_kept": len(problems)}
    else:
        from nested_reft.tasks.hub import load_problems, mirror_from_environment
        from nested_reft.tasks.hub_lock import locked_commit, read_lock

        commit = locked_commit(read_lock(options.lock), settings.problems)
        problems, provenance = load_problems(settings.problems, mirror_from_environment(), commit)
        verify(provenance, options.lock, progress)
    write_problems(options.output, problems)
    write_json(options.provenance, {"name": settings.name, "role": settings.role, **provenance})
    dropped = provenance.get("rows_dropped_empty", 0)
    progress.log(
        f"{len(problems)} problems from {provenance['origin']}; {dropped} rows dropped for an empty question or answer"
    )


def model(options: Options) -> None:
    """One pre-trained model, made here or fetched, and where it came from."""
    settings = parse(ModelSettings, options.settings, "--settings")
    shutil.rmtree(options.output, ignore_errors=True)  # of an attempt that was cut off
    if isinstance(settings.model, HubModel):
        from nested_reft.tasks.hub import fetch_model, mirror_from_environment
        from nested_reft.tasks.hub_lock import locked_commit, read_lock

        commit = locked_commit(read_lock(options.lock), settings.model)
        provenance = fetch_model(settings.model, mirror_from_environment(), options.output, commit)
        verify(provenance, options.lock, Progress(f"model {settings.size}"))
    else:
        provenance = _pretrain(settings, options)
    write_json(options.provenance, {"name": settings.size, "role": "model", **provenance})


def _pretrain(settings: ModelSettings, options: Options) -> dict[str, Any]:
    import time

    import torch

    from nested_reft.config import ScratchModel
    from nested_reft.tasks.policy import save_policy, select_device
    from nested_reft.training.pretrain import pretrain

    torch.set_num_threads(options.threads)
    assert isinstance(settings.model, ScratchModel), "the caller fetches the others"
    if settings.pretraining is None:
        raise ConfigError("pretraining: is missing, and the model has 'source: scratch'")
    progress = Progress(f"pretrain {settings.size}")
    started, last = time.perf_counter(), settings.model.pretraining_steps

    def report(step: int, loss: float) -> None:
        if step % 25 == 0 or step == last:
            seconds = time.perf_counter() - started
            progress.step(f"step {step}/{last}  loss {loss:.3f}  {clock(seconds / step * (last - step))} left")

    policy = pretrain(
        settings.model, settings.pretraining, settings.prompt, settings.size, select_device(settings.device), report
    )
    save_policy(policy, options.output)
    parameters = sum(parameter.numel() for parameter in policy.model.parameters())
    return build_manifest(
        options.settings, origin="pretrained", parameters=parameters, wall_seconds=time.perf_counter() - started
    )


def train(options: Options) -> None:
    """One run: final policy, metrics of every step, manifest. The checkpoint goes once they stand."""
    import torch

    from nested_reft.tasks.policy import load_policy, save_policy, select_device
    from nested_reft.tasks.records import read_problems
    from nested_reft.training.checkpoint import locked, remove_checkpoints
    from nested_reft.training.ranks import join_ranks
    from nested_reft.training.stopping import stop_on_signals
    from nested_reft.training.trainer import step_alarms, write_metrics
    from nested_reft.training.trainer import train as run_training

    settings = parse(TrainSettings, options.settings, "--settings")
    torch.set_num_threads(options.threads)
    folder = options.checkpoints / settings.key
    progress = Progress(f"train {settings.run.path}")

    def report(row: dict[str, Any], seconds_left: float) -> None:
        progress.step(
            f"step {row['step']}/{settings.training.steps}  reward {row['reward']:.3f}  "
            f"{row['tokens_per_s']:,.0f} tokens/s (rollout {row['rollout_tokens_per_s']:,.0f})  "
            f"ess {row['ess']:.3f}  {clock(seconds_left)} left"
        )

    with join_ranks(settings.device) as ranks, locked(folder) if ranks.leads else nullcontext():
        with stop_on_signals() as request:
            problems = read_problems(options.problems)
            # Frozen weights can be as short as the products; trained ones cannot.
            dtype = settings.training.dtype if settings.training.lora else "float32"
            policy = load_policy(options.policy, device=select_device(settings.device), dtype=dtype)
            done = run_training(settings, policy, problems, folder, report, progress.log, lambda: bool(request), ranks)
        if not ranks.leads:
            return
        shutil.rmtree(options.output, ignore_errors=True)
        policy.model.to(getattr(torch, settings.training.dtype))
        save_policy(policy, options.output)
        write_metrics(options.metrics, done.metrics)
        alarms = [alarm for row in done.metrics for alarm in step_alarms(row, settings.training)]
        write_json(options.manifest, build_manifest(options.settings, wall_seconds=done.seconds, alarms=alarms))
        if alarms:
            steps = len({alarm["step"] for alarm in alarms})
            print(f"train {settings.run.path}  alarms in {steps} of {len(done.metrics)} steps: see {options.manifest}")
        remove_checkpoints(folder)


def evaluate(options: Options) -> None:
    """One policy on some benchmarks."""
    import torch

    from nested_reft.evaluation.evaluate import evaluate as run_evaluation
    from nested_reft.tasks import grading
    from nested_reft.tasks.policy import load_policy, select_device
    from nested_reft.tasks.records import read_problems

    settings = parse(EvaluateSettings, options.settings, "--settings")
    torch.set_num_threads(options.threads)
    policy = load_policy(options.policy, device=select_device(settings.device), dtype=settings.dtype)
    where = settings.run.path if settings.run else f"{settings.size}, pre-trained"
    for benchmark, problems, output in zip(settings.benchmarks, options.problems, options.output, strict=True):
        record = run_evaluation(settings, policy, benchmark, read_problems(problems))
        write_json(output, record)
        items = record["items"]
        greedy = sum(item["greedy"] for item in items) / len(items)
        sampled = sum(sum(item["sampled"]) / len(item["sampled"]) for item in items) / len(items)
        Progress(f"evaluate {where} on {benchmark}").step(
            f"greedy {greedy:.3f}  sampled {sampled:.3f}  {len(items)} problems  {record['seconds']:.1f} s  "
            f"{grading.timeouts()} answers not graded in time"
        )


def throughput(options: Options) -> None:
    """Rollout speed of one size at one skip."""
    import torch

    from nested_reft.evaluation.throughput import measure_throughput
    from nested_reft.tasks.policy import load_policy, select_device
    from nested_reft.tasks.records import read_problems

    settings = parse(ThroughputSettings, options.settings, "--settings")
    torch.set_num_threads(options.threads)
    problems = read_problems(options.problems)
    policy = load_policy(options.policy, device=select_device(settings.device), dtype=settings.dtype)
    record = measure_throughput(settings, policy, problems)
    write_json(options.output, record)
    progress = Progress(f"throughput {settings.size} skip{settings.skip}")
    for pair in record["pairs"]:
        nested, full = pair["nested_tokens_per_s"], pair["baseline_tokens_per_s"]
        progress.log(f"{nested:,.0f} tokens/s, full model {full:,.0f}: {nested / full:.3f}")


def gradients(options: Options) -> None:
    """Bias and variance of the gradient estimates of one size at one skip."""
    import torch

    from nested_reft.evaluation.gradients import measure_gradients
    from nested_reft.tasks.policy import load_policy, select_device
    from nested_reft.tasks.records import read_problems

    settings = parse(GradientSettings, options.settings, "--settings")
    torch.set_num_threads(options.threads)
    problems = read_problems(options.problems)
    policy = load_policy(options.policy, device=select_device(settings.device))
    progress = Progress(f"gradients {settings.size} skip{settings.skip}")
    batches = settings.gradients.batches
    record = measure_gradients(settings, policy, problems, lambda done: progress.step(f"batch {done}/{batches}"))
    write_json(options.output, record, indent=None)


def exact(options: Options) -> None:
    """Exact bias and variance of every estimator on a policy small enough to enumerate."""
    from nested_reft.evaluation.exact import exact_rows

    write_json(options.output, {"rows": exact_rows()})


def on_gpu(options: Options) -> None:
    """Another command, on GPUs that no other job of this machine uses."""
    run_on_gpus(options.count, options.job, each=options.each)


def collect(options: Options) -> None:
    """Tidy tables from all result files."""
    from nested_reft.report.collect import collect as run_collect

    run_collect(options.root, parse(Config, options.settings, "--settings"))


def tables(options: Options) -> None:
    """Tables for people from the tidy ones."""
    from nested_reft.report.tables import write_tables

    write_tables(options.root, parse(Config, options.settings, "--settings"))


def claims(options: Options) -> None:
    """The claims table from the tidy ones."""
    from nested_reft.report.claims_tables import write_claims

    write_claims(options.root, parse(Config, options.settings, "--settings"), options.config_file)


def figure(options: Options) -> None:
    """One figure from the tidy tables."""
    from nested_reft.report.figures import draw

    draw(options.name, options.root, parse(Config, options.settings, "--settings"))


def page(options: Options) -> None:
    """One page of the report from the tidy tables."""
    from nested_reft.report.pages_runs import WRITE

    WRITE[options.name](options.root, parse(Config, options.settings, "--settings"))


def compare(options: Options) -> None:
    """What a run found against what a reference run found; DifferenceError, after all of it, where they differ."""
    from nested_reft.report.compare import DifferenceError, compare_folders

    found = compare_folders(options.reference, options.root)
    print(found.text())
    if found.differs:
        raise DifferenceError(f"{options.root} differs from {options.reference}")
    print(f"{options.root} agrees with {options.reference}")


def summary(options: Options) -> None:
    """The verdicts, and where the results are, on standard output."""
    from nested_reft.report.collect import read_table
    from nested_reft.report.summary import summary as make_summary

    print(make_summary(read_table(Path(options.root), "claims"), options.root))
