"""A tiny policy and tiny training settings, with rewards that an untrained model can earn."""

from __future__ import annotations

import zlib
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.config.sampling import Prompt
from nested_reft.config.sources import GeneratedProblems, Pretraining, ScratchModel
from nested_reft.config.training import TrainSettings
from nested_reft.core.loss import Objective
from nested_reft.core.rollout import Rollout
from nested_reft.data.problems import generate_problems
from nested_reft.data.records import Problem
from nested_reft.rollouts.policy import Policy
from nested_reft.rollouts.samplers import TorchSampler
from nested_reft.training.pretrain import build_model, build_tokenizer
from nested_reft.training.run import make_objective, make_step_settings
from nested_reft.training.step import Learner, reft_step

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
        {
            "run": run,
            "training": settings | training,
            "params": {},
            "prompt": PROMPT,
            "device": "cpu",
            "adapt": adapt,
        }
    )


def rollout_of(
    policy: Policy, *, skip: int = 34, seed: int = 1, step: int = 1, strategy: str = "uniform", **training: Any
) -> tuple[tuple[int, ...], Rollout]:
    """The layers left out and the completions of four prompts at one step, which does not move the policy."""
    prompts = [[4, 5, 6], [7, 8, 9, 10, 11], [12], [13, 14]]
    settings = tiny_settings(skip=skip, seed=seed, strategy=strategy, **training)
    learner = Learner(
        TorchSampler(policy), policy.model, torch.optim.SGD(policy.model.parameters(), lr=0.0), Objective("unit")
    )
    step_settings = make_step_settings(settings.run, settings.training)
    batch, _ = reft_step(learner, step_settings, step, prompts, lambda rollout, share: torch.zeros(4, 4))
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
    objective = make_objective(settings.run, settings.params, settings.training)
    engine = mock.Mock(policy=policy)
    engine.sample.return_value = rollout
    learner = Learner(engine, policy.model, optimizer, objective, reference)
    step_settings = make_step_settings(settings.run, settings.training)
    prompts = [ids[real].tolist() for ids, real in zip(rollout.prompt_ids, rollout.prompt_mask.bool(), strict=True)]
    return reft_step(learner, step_settings, 1, prompts, lambda rollout, share: rewards)[1]


def grade_by_checksum(response: str, gold: str, answer: str = "any") -> bool:
    """A reward that about half of all texts earn: an untrained model solves nothing, and no reward is no gradient."""
    return zlib.crc32(f"{response}/{gold}".encode()) % 2 == 0
