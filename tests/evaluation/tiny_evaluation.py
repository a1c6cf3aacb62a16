"""A tiny policy as it is initialised, with the prompts and rewards of the tests of training."""

from __future__ import annotations

from tiny_training import MODEL, PROMPT, grade_by_checksum

from nested_reft.config.sources import GeneratedProblems
from nested_reft.data.problems import generate_problems
from nested_reft.data.records import Problem
from nested_reft.rollouts.policy import Policy
from nested_reft.training.pretrain import build_model, build_tokenizer

__all__ = ["PROMPT", "grade_by_checksum", "tiny_policy", "tiny_problems"]


def tiny_policy(seed: int = 0, **changes: int) -> Policy:
    """An untrained model, `changes` made to its settings."""
    tokenizer = build_tokenizer(PROMPT)
    model = build_model(MODEL.model_copy(update=changes), tokenizer, seed).eval()
    return Policy(model, tokenizer, (tokenizer.eos_token_id,), tokenizer.pad_token_id)


def tiny_problems(count: int) -> list[Problem]:
    """Problems of different lengths."""
    settings = GeneratedProblems(source="generated", problems=count, steps=(1, 3))
    return generate_problems(settings, "test", "tiny")
