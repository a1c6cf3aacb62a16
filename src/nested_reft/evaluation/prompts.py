"""The problems of a measurement as prompts that fit the model."""

from __future__ import annotations

from collections.abc import Sequence

from nested_reft.config.sampling import ModelJob
from nested_reft.data.records import Problem
from nested_reft.rollouts.lengths import check_policy_lengths
from nested_reft.rollouts.policy import Policy
from nested_reft.rollouts.prompts import encode_prompts


def fitting_prompts(
    settings: ModelJob, policy: Policy, problems: Sequence[Problem], key: str = "training.max_new_tokens"
) -> list[list[int]]:
    """The prompts of problems as tokens. DataError if the model cannot take them with a completion as long as `key`."""
    questions = [problem.question for problem in problems]
    prompts = encode_prompts(questions, settings.prompt, policy.tokenizer, settings.max_prompt_tokens)
    check_policy_lengths(policy, prompts, settings.max_new_tokens, key)
    return prompts
