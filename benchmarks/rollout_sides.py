"""The sides that `rollout.py` compares: our sampler, transformers' `generate`, and its continuous batching."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from common import Pair, timed_pairs
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from nested_reft.core.layer_selection import draw_skipped_layers
from nested_reft.core.layers import nested_view
from nested_reft.core.rollout import Rollout
from nested_reft.engine.layer_weights import RolloutWeights
from nested_reft.engine.sampling import sample_completions


@dataclass(frozen=True)
class Case:
    """A model and the work: P prompts (P, S), left-padded, `group` completions each of up to `new_tokens`."""

    name: str
    model: PreTrainedModel
    prompt_ids: Tensor
    prompt_mask: Tensor
    group: int
    new_tokens: int
    temperature: float
    end_ids: tuple[int, ...]
    pad_id: int
    skips: tuple[int, ...]
    weights: RolloutWeights = field(default_factory=RolloutWeights)

    def view(self, skipped: Collection[int]) -> PreTrainedModel:
        """The model without these layers."""
        return nested_view(self.model, skipped)


def nested_pairs(
    case: Case, skip: int, pairs: int, sample: Callable[[tuple[int, ...], int], Any]
) -> tuple[list[tuple[int, ...]], list[Pair]]:
    """The layers drawn for each pair, and the pairs: (full model, nested view), by `sample(skipped, seed)`.

    There is one more draw than pairs, as `timed_pairs` warms up with the last one.
    """
    draws = [
        draw_skipped_layers(case.model.config.num_hidden_layers, skip, 1, torch.Generator().manual_seed(pair))
        for pair in range(pairs + 1)
    ]
    done = timed_pairs(
        lambda pair: sample((), pair + 1), lambda pair: sample(draws[pair], pair + 1), pairs, case.model.device
    )
    return draws, done


def ours(
    case: Case,
    model: PreTrainedModel,
    seed: int,
    *,
    temperature: float | None = None,
    group_size: int | None = None,
    end_ids: Collection[int] | None = None,
) -> Rollout:
    """A rollout of `model`, the case's own or a view of it."""
    return sample_completions(
        model,
        case.prompt_ids,
        case.prompt_mask,
        group_size=case.group if group_size is None else group_size,
        max_new_tokens=case.new_tokens,
        temperature=case.temperature if temperature is None else temperature,
        end_ids=case.end_ids if end_ids is None else end_ids,
        pad_id=case.pad_id,
        generator=torch.Generator(model.device).manual_seed(seed),
        weights=case.weights,
    )


def theirs(case: Case, seed: int, *, greedy: bool = False) -> Tensor:
    """What `generate` returns: prompts and completions, (B, S + T)."""
    torch.manual_seed(seed)  # generate draws from the global generator
    # top_k 0 and top_p 1: no truncation; the config's defaults would cut to 50 tokens.
    sampling = {"do_sample": True, "temperature": case.temperature, "top_k": 0, "top_p": 1.0}
    return case.model.generate(
        input_ids=case.prompt_ids,
        attention_mask=case.prompt_mask.long(),
        generation_config=GenerationConfig(
            max_new_tokens=case.new_tokens,
            num_return_sequences=1 if greedy else case.group,
            use_cache=True,
            eos_token_id=list(case.end_ids) or None,
            pad_token_id=case.pad_id,
            **({"do_sample": False} if greedy else sampling),
        ),
    )


def their_tokens(case: Case, generated: Tensor) -> list[list[int]]:
    """The real tokens of each completion that `generate` returned: up to and including the end token."""
    rows = generated[:, case.prompt_ids.shape[1] :].tolist()
    ends = set(case.end_ids)
    lengths = [next((i + 1 for i, token in enumerate(row) if token in ends), len(row)) for row in rows]
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


@contextmanager
def continuous_batching(case: Case) -> Iterator[Callable[[], int]]:
    """A function that makes the case's rollout by continuous batching and returns the number of its tokens.

    Its manager (cache, captured graphs) is made by the first call and kept for the others, as in a trainer.
    """
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    on_gpu = case.model.device.type == "cuda"
    # By default its cache takes nearly all free memory, and our side needs some too.
    limits = {"max_memory_percent": 0.5} if on_gpu else {"num_blocks": 64, "max_batch_tokens": 256}
    batching = ContinuousBatchingConfig(**limits)
    prompts = [ids[real].tolist() for ids, real in zip(case.prompt_ids, case.prompt_mask, strict=True)]
    sampling = GenerationConfig(
        max_new_tokens=case.new_tokens,
        num_return_sequences=case.group,
        do_sample=True,
        temperature=case.temperature,
        top_k=0,
        top_p=1.0,
        eos_token_id=list(case.end_ids) or -1,
        pad_token_id=case.pad_id,
    )

    def run() -> int:
        outputs = case.model.generate_batch(
            prompts, generation_config=sampling, continuous_batching_config=batching, persistent_manager=True
        )
        finished = [output for output in outputs.values() if output.error is None]
        if len(finished) != len(prompts) * case.group:
            raise RuntimeError(f"continuous batching finished {len(finished)} of {len(prompts) * case.group} requests")
        return sum(len(output.generated_tokens) for output in finished)

    try:
        yield run
    finally:
        case.model.destroy_cached_continuous_batching_manager()
