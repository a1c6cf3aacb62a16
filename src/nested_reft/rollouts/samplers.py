"""What writes the completions of a policy: the samplers of this package and of vLLM, behind one protocol."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, Protocol, TypedDict, Unpack

import torch
from torch import Tensor

from nested_reft.config.rollout_engine import VLLM_MODULE, Vllm
from nested_reft.config.sampling import Sampling
from nested_reft.core.layers import nested_view
from nested_reft.core.rollout import Rollout
from nested_reft.engine.layer_weights import RolloutWeights
from nested_reft.engine.matrices import why_no_precision
from nested_reft.engine.sampling import sample_completions
from nested_reft.rollouts.policy import Policy
from nested_reft.runtime.errors import UserError

if TYPE_CHECKING:  # so that no job depends on the settings of another
    from nested_reft.config.evaluation import EvaluationMeasurement
    from nested_reft.config.training import Training


class SamplerError(UserError, RuntimeError):
    """A sampler cannot write the completions; the message is one line for the user."""


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

    def release(self) -> None:
        """Free what the next `refresh` makes again; called before updates."""


class TorchSampler:
    """The sampler of this package, on the policy's own model or a nested view of it."""

    name = "torch"
    schedules = False

    def __init__(self, policy: Policy, precision: str | None = None) -> None:
        """`precision` as of `RolloutWeights`. SamplerError if the policy's device is not good at it."""
        self.policy, self._weights = policy, RolloutWeights(precision)
        if precision and (reason := why_no_precision(precision, policy.model.device)):
            raise SamplerError(f"rollout_precision: {precision}: {reason}; take another, or remove the key")

    def sample(
        self,
        skipped: Collection[int],
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        sampling: Sampling | None,
        **completions: Unpack[Completions],
    ) -> Rollout:
        """As in `Sampler`."""
        policy, seed = self.policy, completions["seed"]

        def generator(seed: int) -> torch.Generator:
            return torch.Generator(policy.model.device).manual_seed(seed)

        return sample_completions(
            nested_view(policy.model, skipped).eval(),
            prompt_ids,
            prompt_mask,
            group_size=completions["group_size"],
            max_new_tokens=completions["max_new_tokens"],
            temperature=sampling.temperature if sampling else 0.0,
            top_k=sampling.top_k if sampling else None,
            top_p=sampling.top_p if sampling else None,
            end_ids=policy.end_ids,
            pad_id=policy.pad_id,
            generator=generator(seed) if isinstance(seed, int) else [generator(of_prompt) for of_prompt in seed],
            part=completions.get("part"),
            weights=self._weights,
        )

    def refresh(self) -> None:
        """As in `Sampler`: the next rollout makes its matrices from the model's weights."""
        self._weights.clear()

    release = refresh


def sampler_factory(
    vllm: Vllm | None, folder: Path, asked: Training | EvaluationMeasurement, dtype: str
) -> Callable[[Policy], Sampler]:
    """What makes the sampler that the settings ask for, once the policy is in its place; raises SamplerError before
    that if its package is missing.

    Args:
        vllm: the settings of vLLM; None for the sampler of this package, which needs nothing else.
        folder: where the policy was loaded from.
        asked: for which completions: the precision of rollouts, and the most tokens of prompt and completion.
        dtype: of the model's matrix products; that of rollouts if no precision is asked for.
    """
    if vllm is None:
        return partial(TorchSampler, precision=asked.rollout_precision)
    module = import_module(VLLM_MODULE)  # by name: see `engine_modules`
    module.require_vllm()
    return partial(
        module.VllmSampler,
        settings=vllm,
        folder=folder,
        dtype=asked.rollout_precision or dtype,
        max_model_len=asked.max_prompt_tokens + asked.max_new_tokens,
    )


def sampler_name(vllm: Vllm | None) -> str:
    """The name of the sampler that the settings ask for, as in `Sampler`."""
    return TorchSampler.name if vllm is None else import_module(VLLM_MODULE).vllm_name()
