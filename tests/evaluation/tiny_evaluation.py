"""A tiny untrained policy, and a reward that about half of its texts earn."""

from __future__ import annotations

import zlib

import torch

from nested_reft.config.sampling import Prompt
from nested_reft.config.sources import GeneratedProblems, ScratchModel
from nested_reft.data.problems import generate_problems
from nested_reft.data.records import Problem
from nested_reft.rollouts.policy import Policy
from nested_reft.training.pretrain import build_model, build_tokenizer

torch.set_num_threads(1)

PROMPT = Prompt(style="plain", suffix=" answer :")
MODEL = ScratchModel(
    source="scratch", layers=6, width=16, heads=2, key_value_heads=1, feed_forward=32, pretraining_steps=1,
    pretraining_learning_rate=0.01,
)  # fmt: skip


def tiny_policy(seed: int = 0, **changes: int) -> Policy:
    """An untrained model, `changes` made to its settings."""
    tokenizer = build_tokenizer(PROMPT)
    model = build_model(MODEL.model_copy(update=changes), tokenizer, seed).eval()
    return Policy(model, tokenizer, (tokenizer.eos_token_id,), tokenizer.pad_token_id)


def tiny_problems(count: int) -> list[Problem]:
    """Problems of different lengths."""
    settings = GeneratedProblems(source="generated", problems=count, steps=(1, 3))
    return generate_problems(settings, "test", "tiny")


def grade_by_checksum(response: str, gold: str, answer: str = "any") -> bool:
    return zlib.crc32(f"{response}/{gold}".encode()) % 2 == 0
