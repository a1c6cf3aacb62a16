"""What a config asks for (prompt and new tokens), held against what a model can do, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedConfig

from nested_reft.config.sampling import Lengths, Prompt
from nested_reft.data.records import DataError, Problem
from nested_reft.engine.lengths import exact_limit, length_dependence, position_limit
from nested_reft.rollouts.agreement import check_policy_agreement, evaluation_view
from nested_reft.rollouts.policy import Policy
from nested_reft.rollouts.prompts import encode_prompts

# Of hidden states: rounding stays below, and a token's distribution visibly changes above.
TOLERANCE = {torch.float32: 0.01, torch.float64: 0.01}
HALF_TOLERANCE = 0.1


def check_lengths(
    model: str, config: PreTrainedConfig, prompts: Sequence[Sequence[int]], new_tokens: int, key: str
) -> None:
    """Raise DataError if the longest prompt and `new_tokens`, which the config's `key` asks for, are too many.

    Too many for the model's positions, or for rotary embeddings that depend on the length of a call beyond a limit.
    `model` names the model in the message.
    """
    prompt = max(map(len, prompts), default=0)
    limit, exact = position_limit(config), exact_limit(config)
    if exact is not None and prompt + new_tokens > exact[0]:
        limit = exact[0]
        reason = f"has rope_type '{exact[1]}', whose embeddings depend on the length of a call beyond {limit} tokens"
    elif limit is not None and prompt + new_tokens > limit:
        reason = f"has {limit} positions (max_position_embeddings)"
    else:
        return
    remedy = f"lower it to at most {limit - prompt}" if prompt < limit else "leave out the longest problems"
    raise DataError(
        f"{model}: {reason}, but the longest prompt has {prompt} tokens and {key} is {new_tokens}, "
        f"{prompt + new_tokens} in all; {remedy}, or use another model"
    )


def fitting_prompts(
    policy: Policy, problems: Sequence[Problem], prompt: Prompt, lengths: Lengths, key: str
) -> list[list[int]]:
    """The prompts of problems as tokens. DataError if one is longer than it may be, or the model cannot take them with
    completions of the largest length, which the config's `key` asks for.
    """
    questions = [problem.question for problem in problems]
    prompts = encode_prompts(questions, prompt, policy.tokenizer, lengths.max_prompt_tokens)
    check_policy_lengths(policy, prompts, lengths.max_new_tokens, key)
    return prompts


def check_policy_lengths(policy: Policy, prompts: Sequence[Sequence[int]], new_tokens: int, key: str) -> None:
    """`check_lengths` and `check_policy_agreement` for a loaded model, and DataError if its hidden states depend on the
    length of a call at all.
    """
    model = policy.model
    name = model.name_or_path or "model"
    check_lengths(name, model.config, prompts, new_tokens, key)
    view = evaluation_view(policy)
    longest = max(map(len, prompts), default=0) + new_tokens
    shortest = min(filter(None, prompts), key=len, default=None)
    if shortest is None:
        return
    change = length_dependence(view, shortest, longest)
    if not change <= TOLERANCE.get(model.dtype, HALF_TOLERANCE):
        raise DataError(
            f"{name}: what {type(model).__name__} computes for the same {len(shortest)} tokens changes by "
            f"{change:.1%} if the call has {longest}, so that sampler and trainer would disagree; lower {key}, or use "
            "another model"
        )
    check_policy_agreement(policy)
