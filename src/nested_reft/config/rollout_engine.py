"""The settings of the engine that writes the completions of training and evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from nested_reft.config.strict import Strict

if TYPE_CHECKING:
    from nested_reft.config.training import Training

VLLM_MODULE = "nested_reft.rollouts.vllm_sampler"


class Vllm(Strict):
    """What vLLM takes of a GPU with `rollout_engine: vllm`; nothing else reads it (docs/vllm.md)."""

    memory_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of a GPU's memory for vLLM's weights, keys and values, beside the model that is trained or evaluated.
    Without a GPU, of the machine's memory."""
    sleep: bool = False
    """Whether vLLM gives this memory back during the updates of a training; waking it takes time at each step."""


def check_for_vllm(training: Training, evaluation_precision: str | None) -> None:
    """ValueError if training cuts the distribution, as the ratio needs the tokens that a sampler kept, or for a
    precision that vLLM does not have.
    """
    precisions = {"training": training.rollout_precision, "evaluation": evaluation_precision}
    for key, precision in precisions.items():
        if precision == "int8":
            raise ValueError(
                f"{key}.rollout_precision: int8 needs `rollout_engine: torch`; with vllm it can be float32 or bfloat16"
            )
    cut = {"top_k": training.top_k is not None, "top_p": training.top_p is not None and training.top_p < 1}
    for key, set_ in cut.items():
        if set_:
            raise ValueError(
                f"training.{key}: with `rollout_engine: vllm` nothing is known of the tokens that were kept, and the "
                "target could not be renormalised on them; remove it, or set `rollout_engine: torch`"
            )


def engine_modules(vllm: Vllm | None) -> tuple[str, ...]:
    """The modules that completions depend on beside those of `torch`, which are imported by name: what `torch` wrote
    does not follow the sources of vLLM's."""
    return () if vllm is None else (VLLM_MODULE,)
