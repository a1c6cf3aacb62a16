"""What writes the completions of a policy: the samplers of this package and of vLLM, behind one protocol."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NotRequired, Protocol, TypedDict, Unpack

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.config.rollout_engine import VLLM_MODULE, Vllm
from nested_reft.config.sampling import Sampling
from nested_reft.core.layers import nested_view
from nested_reft.core.rollout import Rollout
from nested_reft.engine.sampling import sample_completions
from nested_reft.rollouts.policy import Policy


class Completions(TypedDict):
    """Which completions a sampler is asked for.

    seed: one for the batch, or one per prompt; the completions of a prompt then do not depend on which prompts are
    sampled together with it. part: as in `sample_completions`.
    """

    group_size: int  # G, completions per prompt
    max_new_tokens: int
    seed: int | Sequence[int]
    part: NotRequired[tuple[int, int]]


class Sampler(Protocol):
    """What writes the completions of a policy, with all of its layers or without some."""

    policy: Policy
    name: str
    """For manifests: its name, and its version if it is another package's."""
    schedules: bool
    """Whether it may be given any number of prompts, and answers as many at once as fit into memory."""

    def sample(
        self,
        skipped: Collection[int],
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        sampling: Sampling | None,
        **completions: Unpack[Completions],
    ) -> Rollout:
        """Completions of prompts (P, S) by the policy without the layers `skipped`; greedy if `sampling` is None."""

    def refresh(self) -> None:
        """Take over the weights that the policy's model has now; called before the first rollout and after updates."""


class TorchSampler:
    """The sampler of this package, on the policy's own model or a nested view of it."""

    name = "torch"
    schedules = False

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def sample(
        self,
        skipped: Collection[int],
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        sampling: Sampling | None,
        **completions: Unpack[Completions],
    ) -> Rollout:
        """As in `Sampler`."""
        view = nested_view(self.policy.model, skipped).eval()
        return sample_rollout(self.policy, view, prompt_ids, prompt_mask, sampling, **completions)

    def refresh(self) -> None:
        """Nothing: a view's weights are the model's own."""


def sampler_factory(vllm: Vllm | None, folder: Path, dtype: str, max_model_len: int) -> Callable[[Policy], Sampler]:
    """What makes the sampler that the settings ask for, once the policy is in its place; raises SamplerError before
    that if its package is missing.

    Args:
        vllm: the settings of vLLM; None for the sampler of this package, which needs nothing else.
        folder: where the policy was loaded from.
        dtype: of vLLM's weights and matrix products.
        max_model_len: the most tokens of a prompt and its completion.
    """
    if vllm is None:
        return TorchSampler
    module = import_module(VLLM_MODULE)  # by name: see `engine_modules`
    module.require_vllm()
    return partial(module.VllmSampler, settings=vllm, folder=folder, dtype=dtype, max_model_len=max_model_len)


def sampler_name(vllm: Vllm | None) -> str:
    """The name of the sampler that the settings ask for, as in `Sampler`."""
    return TorchSampler.name if vllm is None else import_module(VLLM_MODULE).vllm_name()


def sample_rollout(
    policy: Policy,
    model: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    sampling: Sampling | None,
    *,
    stop_at_end: bool = True,
    **completions: Unpack[Completions],
) -> Rollout:
    """Completions of prompts (P, S) by `model`, the policy's own or a view of it; greedy if `sampling` is None."""

    def generator(seed: int) -> torch.Generator:
        return torch.Generator(policy.model.device).manual_seed(seed)

    seed = completions["seed"]
    return sample_completions(
        model,
        prompt_ids,
        prompt_mask,
        group_size=completions["group_size"],
        max_new_tokens=completions["max_new_tokens"],
        temperature=sampling.temperature if sampling else 0.0,
        top_k=sampling.top_k if sampling else None,
        top_p=sampling.top_p if sampling else None,
        end_ids=policy.end_ids if stop_at_end else (),
        pad_id=policy.pad_id,
        generator=generator(seed) if isinstance(seed, int) else [generator(of_prompt) for of_prompt in seed],
        part=completions.get("part"),
    )
