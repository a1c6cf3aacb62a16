"""A tiny policy and tiny training settings, with rewards that an untrained model can earn."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.config.sampling import Prompt
from nested_reft.config.sources import GeneratedProblems, Pretraining, ScratchModel
from nested_reft.config.training import TrainSettings
from nested_reft.core.rollout import Rollout
from nested_reft.data.problems import generate_problems
from nested_reft.data.records import Problem
from nested_reft.rollouts import rewards
from nested_reft.rollouts.policy import Policy
from nested_reft.rollouts.samplers import Sampler, TorchSampler
from nested_reft.training.checkpoint import TrainingState
from nested_reft.training.loop import Job
from nested_reft.training.pretrain import build_model, build_tokenizer
from nested_reft.training.run import make_objective, train
from nested_reft.training.step import Learner, reft_step
from nested_reft.training.stopping import StoppedError

torch.set_num_threads(1)  # a process that tests/faults forks cannot use the threads of this one

PROMPT = Prompt(style="plain", suffix=" answer :")
STORIES = GeneratedProblems(source="generated", problems=10, steps=(1, 2), distractors=(0, 1))
MODEL = ScratchModel(
    source="scratch", layers=6, width=16, heads=2, key_value_heads=1, feed_forward=32, pretraining_steps=40,
    pretraining_learning_rate=0.01,
)  # fmt: skip
PRETRAINING = Pretraining(problems=STORIES.model_copy(update={"problems": 200}), batch_size=8, warmup_steps=4)
DTYPES = ("float32", "bfloat16")
TIMINGS = {"rollout_seconds", "reward_seconds", "update_seconds", "rollout_tokens_per_s", "tokens_per_s"}


def tiny_policy(seed: int = 0, **changes: Any) -> Policy:
    """An untrained model, `changes` made to its settings; sharpened so that leaving a layer out matters."""
    tokenizer = build_tokenizer(PROMPT)
    model = build_model(MODEL.model_copy(update=changes), tokenizer, seed).eval()
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
    return Policy(model, tokenizer, (tokenizer.eos_token_id,), tokenizer.pad_token_id)


def tiny_problems() -> list[Problem]:
    return generate_problems(STORIES, "train", "tiny")


def tiny_settings(
    *, correction: str = "retrace", skip: int = 34, seed: int = 1, strategy: str = "uniform",
    adapt: dict[str, Any] | None = None, **training: Any,
) -> TrainSettings:  # fmt: skip
    """Six steps with a checkpoint after every second; 34 % of six layers are two."""
    settings = {
        "steps": 6, "problems_per_step": 3, "completions_per_problem": 4, "max_new_tokens": 5, "learning_rate": 0.003,
        "warmup_steps": 2, "checkpoint_every": 2, "alarms": {"ess_below": None, "kl_above": None},
    }  # fmt: skip
    run = {
        "size": "tiny",
        "dataset": "stories",
        "correction": correction,
        "skip": skip,
        "strategy": strategy,
        "seed": seed,
    }
    return TrainSettings.model_validate(
        {"run": run, "training": settings | training, "params": {}, "prompt": PROMPT, "device": "cpu", "adapt": adapt}
    )


def learner_on(
    policy: Policy,
    settings: TrainSettings,
    optimizer: torch.optim.Optimizer,
    sampler: Sampler | None = None,
    reference: PreTrainedModel | None = None,
) -> Learner:
    objective = make_objective(settings.run, settings.params, settings.training)
    sampler = sampler or TorchSampler(policy)
    return Learner(settings.run, settings.training, objective, sampler, policy.model, optimizer, reference)


def rollout_of(
    policy: Policy, *, skip: int = 34, seed: int = 1, step: int = 1, strategy: str = "uniform", **training: Any
) -> tuple[tuple[int, ...], Rollout]:
    """The layers left out and the completions of four prompts at one step, which does not move the policy."""
    prompts = [[4, 5, 6], [7, 8, 9, 10, 11], [12], [13, 14]]
    settings = tiny_settings(correction="unit", skip=skip, seed=seed, strategy=strategy, **training)
    learner = learner_on(policy, settings, torch.optim.SGD(policy.model.parameters(), lr=0.0))
    batch, _ = reft_step(learner, step, prompts, lambda rollout, share: torch.zeros(4, 4))
    policy.model.zero_grad(set_to_none=True)
    return batch.skipped, batch.rollout


def step_on(
    policy: Policy,
    rollout: Rollout,
    rewards: Tensor,
    settings: TrainSettings,
    optimizer: torch.optim.Optimizer,
    reference: PreTrainedModel | None = None,
) -> dict[str, float]:
    """The metrics of the training step if this is the rollout that it samples, with rewards (P, G)."""
    sampler = mock.Mock(policy=policy)
    sampler.sample.return_value = rollout
    learner = learner_on(policy, settings, optimizer, sampler, reference)
    prompts = [ids[real].tolist() for ids, real in zip(rollout.prompt_ids, rollout.prompt_mask.bool(), strict=True)]
    return reft_step(learner, 1, prompts, lambda rollout, share: rewards)[1]


class InterruptionError(Exception):
    """Raised in the middle of a run, as a kill would be."""


@dataclass(frozen=True)
class Done:
    """What a run ends with: its metrics but for timings, the final weights, and its log."""

    policy: Policy
    state: TrainingState
    log: list[str]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [{key: value for key, value in row.items() if key not in TIMINGS} for row in self.state.metrics]

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.policy.model.named_parameters()}


def run(
    folder: Path,
    settings: TrainSettings,
    *,
    policy: Policy | None = None,
    dies_after: int | None = None,
    stops_after: int | None = None,
    **options: Any,
) -> Done:
    """Train a fresh tiny policy (or the given one), with `options` of `train`. It can end early in two ways."""
    log, seen = list[str](), list[int]()

    def report(row: dict[str, Any], seconds_left: float) -> None:
        seen.append(row["step"])
        if row["step"] == dies_after:
            raise InterruptionError

    job = Job(folder, report=report, log=log.append, stop=lambda: len(seen) == stops_after)
    with mock.patch.object(rewards, "grade", grade_by_checksum):
        final, state = train(settings, policy or tiny_policy(), tiny_problems(), job, **options)
    return Done(final, state, log)


def assert_same(one: Done, other: Done) -> None:
    """To the last bit."""
    assert json.dumps(one.rows) == json.dumps(other.rows)  # as text, in which nan equals nan
    expected = other.weights
    assert one.weights.keys() == expected.keys()
    for name, tensor in one.weights.items():
        assert torch.equal(tensor, expected[name]), name


def assert_resumes(folder: Path, settings: TrainSettings, *, options: Any = None, **ends: Any) -> tuple[Done, Done]:
    """A run that ends early and is run again ends exactly like one that does not; both, the latter first."""
    options = options or dict
    whole = run(folder / "whole", settings, **options())
    with pytest.raises((InterruptionError, StoppedError)):
        run(folder / "cut", settings, **options(), **ends)
    continued = run(folder / "cut", settings, **options())
    assert_same(continued, whole)
    return whole, continued


def grade_by_checksum(response: str, gold: str, answer: str = "any") -> bool:
    """A reward that about half of all texts earn: an untrained model solves nothing, and no reward is no gradient."""
    return zlib.crc32(f"{response}/{gold}".encode()) % 2 == 0
