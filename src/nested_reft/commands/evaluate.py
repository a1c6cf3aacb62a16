"""`nested-reft evaluate`: one policy on some benchmarks."""

from __future__ import annotations

import argparse

import torch

from nested_reft.config.evaluation import EvaluateSettings
from nested_reft.config.records.record import write_record
from nested_reft.config.run import STAGES
from nested_reft.config.strict import parse
from nested_reft.data.records import read_problems
from nested_reft.evaluation.evaluate import evaluate
from nested_reft.rollouts.policy import load_policy, select_device
from nested_reft.rollouts.samplers import sampler_factory
from nested_reft.runtime.progress import Progress


def run(options: argparse.Namespace) -> None:
    """Write one record per benchmark."""
    settings = parse(EvaluateSettings, options.settings, "--settings")
    torch.set_num_threads(options.threads)
    evaluation = settings.evaluation
    make_sampler = sampler_factory(settings.vllm, options.policy, evaluation, settings.dtype)
    policy = load_policy(
        options.policy, device=select_device(settings.device), dtype=settings.dtype, prompt=settings.prompt
    )
    engine = make_sampler(policy)
    name = settings.run.path if settings.run else f"{settings.size}, {STAGES[settings.stage]}"
    for benchmark, problems, output in zip(settings.benchmarks, options.problems, options.output, strict=True):
        record = evaluate(settings, engine, benchmark, read_problems(problems))
        write_record(output, record)
        items = record.items
        greedy = sum(item.greedy for item in items) / len(items)
        sampled = sum(sum(item.sampled) / len(item.sampled) for item in items) / len(items)
        Progress(f"evaluate {name} on {benchmark}").log(
            f"greedy {greedy:.3f}  sampled {sampled:.3f}  {len(items)} problems  {record.seconds:.1f} s  "
            f"{record.answers_cut_off} answers cut off in grading"
        )
