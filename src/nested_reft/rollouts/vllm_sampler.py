"""Completions by vLLM in this process: the sampler of `rollout_engine: vllm`, on the GPU of the model that is trained.

What differs from the sampler of this package, on purpose:
- each completion has a seed of its own, made of the prompt's: the draws are others than torch's, and depend neither on
  the process that samples the prompt nor on what is sampled together with it. Rounding does: vLLM batches as it likes;
- log-probabilities are vLLM's, of the distribution that was sampled from;
- the engine has its own copy of the weights, which `refresh` replaces by those of the policy's model.

Each process of a run has an engine of its own. vLLM is imported only when it is made: in a job that was forked from a
warm process too, where its settings must be in the environment before.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from nested_reft.config.rollout_engine import Vllm
from nested_reft.config.sampling import Sampling
from nested_reft.core.rollout import Rollout
from nested_reft.engine.lengths import position_limit
from nested_reft.integrations.vllm import engine_arguments, load_weights, nest
from nested_reft.rollouts.policy import Policy
from nested_reft.rollouts.samplers import Completions, SamplerError
from nested_reft.runtime.seeding import derive_seed

REQUIRED = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # weights pass as tensors, within the process
DEFAULTS = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # other jobs compute on this machine too
    "VLLM_LOGGING_LEVEL": "ERROR",  # it warns of each weight that a reload derives from others
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # standard output reaches the terminal
    "VLLM_NO_USAGE_STATS": "1",
}
SEEDS = 2**62  # vLLM adds a completion's number to its prompt's seed, and keeps 64 bits with a sign
TORCH = "or set `rollout_engine: torch`"


def require_vllm() -> None:
    """SamplerError if vLLM is not installed."""
    found = find_spec("vllm")
    if found is None or found.origin is None:  # the latter is a folder of that name, and no package
        raise SamplerError(
            "rollout_engine: 'vllm' needs the package vllm; run: pip install 'nested-reft[vllm]' (docs/vllm.md), "
            f"{TORCH}"
        )


def _import_vllm() -> Any:
    """vLLM, with its settings in the environment before; SamplerError says why it cannot be imported."""
    require_vllm()
    os.environ.update(REQUIRED)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
    except (ImportError, RuntimeError, OSError) as error:  # a library of another CUDA, or packages that do not match
        raise SamplerError(
            f"vLLM is installed and cannot be imported; install it again (docs/vllm.md), {TORCH} ({_line(error)})"
        ) from error
    return vllm


def vllm_name() -> str:
    """vLLM and its version."""
    return f"vllm {_import_vllm().__version__}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class VllmSampler:
    """A vLLM engine beside the policy's model.

    Args:
        policy: whose completions it writes; its model is on its device already.
        settings: what vLLM may take of the GPU.
        folder: where the policy was loaded from; vLLM loads it too.
        dtype: of vLLM's weights and matrix products.
        max_model_len: the most tokens of a prompt and its completion; at most the model's positions are used.

    Raises:
        SamplerError: the engine cannot be made, or cannot leave out layers.
    """

    schedules = True

    def __init__(self, policy: Policy, *, settings: Vllm, folder: Path, dtype: str, max_model_len: int) -> None:
        vllm = _import_vllm()
        self.policy, self.name, self._settings = policy, vllm_name(), settings
        from vllm.platforms import current_platform

        device, own = policy.model.device.type, current_platform.device_type
        if own != device:
            raise SamplerError(
                f"device: the model is on '{device}', but vLLM is built for '{own}'; set `device`, {TORCH}"
            )
        torch.cuda.empty_cache()  # vLLM asks the driver for memory, and torch keeps what it has freed
        # The processes of a training are torch's already: vLLM then takes the GPU of this one's local rank.
        launcher = "external_launcher" if torch.distributed.is_initialized() else None
        with self._explained():
            self._llm = vllm.LLM(
                str(folder),
                **engine_arguments(),
                dtype=dtype,
                skip_tokenizer_init=True,
                use_tqdm_on_load=False,
                max_model_len=min(max_model_len, position_limit(policy.model.config) or max_model_len),
                gpu_memory_utilization=settings.memory_share,
                enable_sleep_mode=settings.sleep,
                distributed_executor_backend=launcher,
                seed=0,
            )
            nest(self._llm, ())  # a model whose layers cannot be left out is refused now
            if settings.sleep:
                self._llm.sleep(level=2)

    def sample(
        self,
        skipped: Collection[int],
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        sampling: Sampling | None,
        **completions: Unpack[Completions],
    ) -> Rollout:
        """As in `Sampler`; if top-k or top-p cut the distribution, the rollout has no `support`."""
        from vllm import SamplingParams

        seeds = completions["seed"]
        if isinstance(seeds, int):  # the number of a prompt in the whole batch: not who samples it
            first, _ = completions.get("part", (0, 0))
            seeds = [derive_seed("prompt", seeds, first + place) for place in range(len(prompt_ids))]
        options = [
            SamplingParams(
                n=completions["group_size"],
                max_tokens=completions["max_new_tokens"],
                seed=seed % SEEDS,
                detokenize=False,
                temperature=sampling.temperature if sampling else 0.0,
                top_k=(sampling.top_k if sampling else None) or 0,
                top_p=(sampling.top_p if sampling else None) or 1.0,
                # Of the sampled token alone. A greedy choice is certain: its log-probability is 0.
                logprobs=0 if sampling else None,
                flat_logprobs=True,
                # The policy's end tokens, and not those that vLLM finds in the model's files.
                ignore_eos=True,
                stop_token_ids=list(self.policy.end_ids),
            )
            for seed in seeds
        ]
        prompts = [
            {"prompt_token_ids": ids[real].tolist()} for ids, real in zip(prompt_ids, prompt_mask.bool(), strict=True)
        ]
        # Autocast is for the training's matrix products; vLLM has its own dtype.
        with self._explained(), torch.autocast(prompt_ids.device.type, enabled=False):
            nest(self._llm, skipped)
            answers = self._llm.generate(prompts, options, use_tqdm=False)
        return as_rollout(answers, prompt_ids, prompt_mask, self.policy.pad_id)

    def refresh(self) -> None:
        """Hand the weights of the policy's model over; wakes an engine that sleeps."""
        with self._explained():
            if self._settings.sleep:
                torch.cuda.empty_cache()
                self._llm.wake_up(tags=["weights"])
            load_weights(self._llm, merged_parameters(self.policy.model))
            if self._settings.sleep:
                self._llm.wake_up(tags=["kv_cache"])

    def release(self) -> None:
        """Give the GPU's memory back, if the settings ask for that."""
        if self._settings.sleep:
            with self._explained():
                self._llm.sleep(level=2)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """SamplerError in place of what vLLM, or a guard, raises; the line says which setting to change."""
        try:
            yield
        except (ValueError, RuntimeError, LookupError, OSError) as error:
            reason = _line(error)
            if "memory" in reason:
                raise SamplerError(
                    f"vLLM has not enough memory: vllm.memory_share, now {self._settings.memory_share}, must hold the "
                    f"weights, and keys and values of one completion; the rest must hold the training. Change it, set "
                    f"`vllm: {{sleep: true}}`, {TORCH} ({reason})"
                ) from error
            raise SamplerError(f"vLLM cannot sample from this model; use another, {TORCH} ({reason})") from error


def as_rollout(answers: Sequence[Any], prompt_ids: Tensor, prompt_mask: Tensor, pad_id: int) -> Rollout:
    """The rollout in vLLM's answers, one per prompt with G outputs each; on the prompts' device.

    A completion's tokens include the one that ended it, and have one log-probability each, or none at all if none was
    asked for: `logp` is then 0.
    """
    outputs = [output for answer in answers for output in answer.outputs]
    lengths = torch.tensor([len(output.token_ids) for output in outputs])
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)  # (B, T)
    tokens = torch.full(mask.shape, pad_id)
    tokens[mask] = torch.tensor([token for output in outputs for token in output.token_ids])
    logp = torch.zeros(mask.shape)
    if outputs[0].logprobs is not None:
        logp[mask] = torch.tensor([value for output in outputs for value in output.logprobs.logprobs])
    return Rollout(prompt_ids, prompt_mask, *(tensor.to(prompt_ids.device) for tensor in (tokens, mask, logp)))


def merged_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter by the name that it has without adapters; what adapters (peft) add is part of it.

    The model stays as it is: merging and taking apart again would round its weights at each step.
    """
    for name, parameter in model.named_parameters():
        path, inside, part = name.partition(".base_layer.")
        if inside and part == "weight":
            layer: Any = model.get_submodule(path)
            for adapter in layer.active_adapters:
                parameter = parameter.detach() + layer.get_delta_weight(adapter).to(parameter.dtype)
        if ".lora_" not in name:
            yield name.replace(".base_layer.", "."), parameter.detach()
