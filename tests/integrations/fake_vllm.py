"""What TRL uses of vLLM in its own process, on a copy of the model: it shows what the trainer asks of it, and when."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from tiny_trl import END, LAYERS, PAD
from torch import Tensor

from nested_reft.core.layers import nested_view
from nested_reft.engine.sampling import sample_completions

EXTENSION = "nested_reft.integrations.vllm.NestedWorker"


class FakeLLM:
    """An engine with weights of its own, which are the trainer's only after TRL has loaded them."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.model = tiny_model(layers=LAYERS, seed=99)
        self.skipped: tuple[int, ...] = ()
        self.calls: list[Any] = []
        runner = SimpleNamespace(model=SimpleNamespace(load_weights=self._load))
        executor = SimpleNamespace(driver_worker=SimpleNamespace(model_runner=runner))
        self.llm_engine = SimpleNamespace(model_executor=executor)

    def _load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        for name, tensor in weights:
            self.model.get_parameter(name).data.copy_(tensor)

    def reset_prefix_cache(self) -> bool:
        return True

    def generate(self, prompts: list[dict[str, list[int]]], sampling_params: Any, use_tqdm: bool) -> list[Any]:
        self.calls.append(("generate", self.skipped))
        view, outputs = nested_view(self.model, self.skipped).eval(), []
        for prompt in prompts:
            ids = torch.tensor([prompt["prompt_token_ids"]])
            rollout = sample_completions(
                view, ids, torch.ones_like(ids), group_size=1, max_new_tokens=sampling_params.max_tokens,
                temperature=sampling_params.temperature, end_ids=[END], pad_id=PAD,
            )  # fmt: skip
            pairs = zip(rollout.tokens[0].tolist(), rollout.logp[0].tolist(), strict=True)
            logprobs = [{token: SimpleNamespace(logprob=logp, rank=1)} for token, logp in pairs]
            completion = SimpleNamespace(token_ids=rollout.tokens[0].tolist(), logprobs=logprobs)
            outputs.append(SimpleNamespace(prompt_token_ids=prompt["prompt_token_ids"], outputs=[completion]))
        return outputs


def nest(llm: FakeLLM, skipped: tuple[int, ...]) -> None:
    llm.skipped = tuple(skipped)
    llm.calls.append(("nest", llm.skipped))


def install(patch: pytest.MonkeyPatch) -> None:
    """TRL and the trainer find the fake engine in place of vLLM."""
    import trl.generation.vllm_generation as generation

    from nested_reft.integrations.vllm import engine_arguments

    ours = ModuleType("nested_reft.integrations.vllm")
    vars(ours).update(engine_arguments=engine_arguments, nest=nest)
    patch.setitem(sys.modules, "nested_reft.integrations.vllm", ours)
    patch.setattr(generation, "is_vllm_available", lambda: True)
    patch.setattr(generation, "LLM", FakeLLM, raising=False)
    patch.setattr(generation, "SamplingParams", lambda **values: SimpleNamespace(**values), raising=False)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        patch.setenv(name, "")  # TRL sets them for the rest of the process; the patch takes that back
        patch.delenv(name)
