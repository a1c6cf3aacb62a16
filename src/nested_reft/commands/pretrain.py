"""`nested-reft pretrain`: one model trained from scratch on generated problems."""

from __future__ import annotations

import argparse
import shutil
import time

import torch

from nested_reft.config.sources import ModelSettings, ScratchModel
from nested_reft.config.strict import parse, settings_hash
from nested_reft.rollouts.policy import save_policy, select_device
from nested_reft.runtime.files import write_json
from nested_reft.runtime.manifest import build_manifest
from nested_reft.runtime.progress import Progress, clock
from nested_reft.training.pretrain import pretrain


def run(options: argparse.Namespace) -> None:
    """Pre-train one model, and record what it was made with."""
    settings = parse(ModelSettings, options.settings, "--settings")
    assert isinstance(settings.model, ScratchModel), "`fetch-model` fetches the others"
    assert settings.pretraining is not None, "checked by Config"
    torch.set_num_threads(options.threads)
    shutil.rmtree(options.output, ignore_errors=True)  # left by an interrupted attempt
    progress = Progress(f"pretrain {settings.size}")
    started, last = time.perf_counter(), settings.model.pretraining_steps

    def report(step: int, loss: float) -> None:
        if step % 25 == 0 or step == last:
            seconds = time.perf_counter() - started
            progress.log(f"step {step}/{last}  loss {loss:.3f}  {clock(seconds / step * (last - step))} left")

    policy = pretrain(
        settings.model, settings.pretraining, settings.prompt, settings.size, select_device(settings.device), report
    )
    save_policy(policy, options.output)
    record = build_manifest(
        options.settings,
        settings_hash(options.settings),
        origin="pretrained",
        parameters=sum(parameter.numel() for parameter in policy.model.parameters()),
        wall_seconds=time.perf_counter() - started,
    )
    write_json(options.provenance, {"name": settings.size, "role": "model", **record})
