"""Rollouts of a policy: its sampling settings, end tokens and seed, handed to the engine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.config.sampling import Sampling
from nested_reft.core.rollout import Rollout
from nested_reft.engine.sampling import sample_completions
from nested_reft.tasks.policy import Policy


def sample_rollout(
    policy: Policy,
    model: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    sampling: Sampling | None,
    *,
    group_size: int,
    max_new_tokens: int,
    seed: int | Sequence[int],
    stop_at_end: bool = True,
    part: tuple[int, int] | None = None,
) -> Rollout:
    """Completions of prompts (P, S) by `model`, the policy's own or a view of it; greedy if `sampling` is None.

    `part` is as in `sample_completions`.

    `seed`: one for the batch, or one per prompt; the completions of a prompt then do not depend on which prompts are
    sampled together with it.
    """

    def generator(value: int) -> torch.Generator:
        return torch.Generator(policy.model.device).manual_seed(value)

    return sample_completions(
        model,
        prompt_ids,
        prompt_mask,
        group_size=group_size,
        max_new_tokens=max_new_tokens,
        temperature=sampling.temperature if sampling else 0.0,
        top_k=sampling.top_k if sampling else None,
        top_p=sampling.top_p if sampling else None,
        end_ids=policy.end_ids if stop_at_end else (),
        pad_id=policy.pad_id,
        generator=generator(seed) if isinstance(seed, int) else [generator(of_prompt) for of_prompt in seed],
        part=part,
    )
