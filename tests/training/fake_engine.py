"""A fake of the package vllm in this process, on a copy of the policy that only handed-over weights change.

Its completions are those of this package's sampler, each with the generator of its own seed, as vLLM's are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from nested_reft.config.evaluation import Evaluation
from nested_reft.config.rollout_engine import Vllm
from nested_reft.core.layers import nested_view
from nested_reft.engine.sampling import sample_completions
from nested_reft.rollouts.policy import Policy
from nested_reft.rollouts.samplers import Sampler, sampler_factory

VERSION = "0.0.fake"


class FakeLLM:
    """What the pipeline uses of `vllm.LLM`. `calls` has what was asked of it, in order."""

    def __init__(self, model: str, **arguments: Any) -> None:
        self.arguments = arguments
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.skipped: tuple[int, ...] = ()
        self.calls: list[Any] = []
        self.options: list[Any] = []
        parallel = SimpleNamespace(worker_extension_cls=arguments["worker_extension_cls"])
        self.llm_engine = SimpleNamespace(
            vllm_config=SimpleNamespace(parallel_config=parallel), model_executor=self,
            has_unfinished_requests=lambda: False,
        )  # fmt: skip
        made.append(self)

    def reset_prefix_cache(self) -> bool:
        return True

    def collective_rpc(self, method: str, args: tuple[Any, ...]) -> list[str]:
        (argument,) = args
        if method == "nested_skip":
            self.skipped = tuple(int(index) for index in argument.split(",") if index)
            if max(self.skipped, default=0) >= self.model.config.num_hidden_layers:
                return ["skipped has a layer that is none"]
            self.calls.append(("nest", self.skipped))
        else:
            parameters = dict(self.model.named_parameters())
            assert argument.keys() == parameters.keys()
            for name, parameter in parameters.items():
                parameter.data.copy_(argument[name])
            self.calls.append("load")
        return [""]

    def generate(self, prompts: list[dict[str, list[int]]], options: list[Any], use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        self.calls.append(("generate", len(prompts)))
        self.options += options
        view = nested_view(self.model, self.skipped).eval()
        return [
            SimpleNamespace(outputs=[self._complete(view, prompt, asked, number) for number in range(asked.n)])
            for prompt, asked in zip(prompts, options, strict=True)
        ]

    def _complete(self, view: Any, prompt: dict[str, list[int]], asked: Any, number: int) -> Any:
        ids = torch.tensor([prompt["prompt_token_ids"]])
        rollout = sample_completions(
            view, ids, torch.ones_like(ids), group_size=1, max_new_tokens=asked.max_tokens,
            temperature=asked.temperature, top_k=asked.top_k or None, top_p=asked.top_p, end_ids=asked.stop_token_ids,
            pad_id=0, generator=torch.Generator().manual_seed(asked.seed + number),
        )  # fmt: skip
        logprobs = None if asked.logprobs is None else SimpleNamespace(logprobs=rollout.logp[0].tolist())
        return SimpleNamespace(token_ids=rollout.tokens[0].tolist(), logprobs=logprobs)

    def sleep(self, level: int) -> None:
        self.calls.append(("sleep", level))

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(("wake", *tags))


made: list[FakeLLM] = []
"""The engines since `install`, in order."""


def install(patch: pytest.MonkeyPatch, device: str = "cpu", llm: Any = FakeLLM) -> None:
    """`import vllm` finds the fake, built for this kind of device."""
    made.clear()
    package, platforms = ModuleType("vllm"), ModuleType("vllm.platforms")
    package.__spec__ = ModuleSpec("vllm", None, origin=str(Path(__file__)))
    vars(package).update(
        __version__=VERSION, LLM=llm, SamplingParams=lambda **values: SimpleNamespace(**values), platforms=platforms
    )
    vars(platforms).update(current_platform=SimpleNamespace(device_type=device))
    patch.setitem(sys.modules, "vllm", package)
    patch.setitem(sys.modules, "vllm.platforms", platforms)


def making(folder: Path, vllm: Vllm | None = None, max_model_len: int = 99) -> Callable[[Policy], Sampler]:
    """What makes the sampler of vLLM for the policy that was saved in `folder`."""
    asked = Evaluation(samples_per_problem=1, max_prompt_tokens=max_model_len - 1, max_new_tokens=1)
    return sampler_factory(vllm or Vllm(), folder, asked, "float32")
