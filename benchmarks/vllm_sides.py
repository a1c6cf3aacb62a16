"""vLLM as a side of a comparison: an engine that makes the rollouts of a `Case` with any set of layers left out.

Import this before vLLM: it sets the variables that vLLM reads.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rollout_sides import Case

from nested_reft.integrations.vllm import engine_arguments, nest

GIGABYTES = 2  # of a CPU's memory for keys and values
# (skipped layers, seed) to the answers, one for each prompt, with a log-probability for each token
Sampler = Callable[[Collection[int], int], list[Any]]


def installed() -> bool:
    """Whether vLLM can be imported; a folder of its name is not enough."""
    return importlib.util.find_spec("vllm") is not None and importlib.util.find_spec("vllm.sampling_params") is not None


def vllm_version() -> str:
    """The version that vLLM names; its distribution has another name on CPUs."""
    import vllm

    return str(vllm.__version__)


@contextmanager
def vllm_engine(case: Case, threads: int, *, graphs: bool = False, in_process: bool = True) -> Iterator[Sampler]:
    """A function that samples the case's rollout from vLLM with the case's weights.

    Args:
        threads: of the CPU.
        graphs: compiled and captured, vLLM's own default, which runs the whole model only.
        in_process: so that `time.process_time` counts its work. Otherwise its end gives back all of its memory.
    """
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(not in_process)),
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_KVCACHE_SPACE": str(GIGABYTES),
    }
    import vllm

    arguments = engine_arguments() | ({"enforce_eager": False} if graphs else {})
    if case.model.device.type == "cuda":
        torch.cuda.empty_cache()
        arguments["gpu_memory_utilization"] = 0.4  # our own model stays where it is
    with tempfile.TemporaryDirectory() as folder:
        case.model.save_pretrained(folder)
        llm = vllm.LLM(
            folder,
            dtype=str(case.model.dtype).removeprefix("torch."),
            skip_tokenizer_init=True,
            seed=0,
            max_model_len=case.prompt_ids.shape[1] + case.new_tokens,
            **arguments,
        )
    prompts = [
        {"prompt_token_ids": ids[real].tolist()} for ids, real in zip(case.prompt_ids, case.prompt_mask, strict=True)
    ]

    def run(skipped: Collection[int], seed: int) -> list[Any]:
        if graphs:
            llm.reset_prefix_cache()  # as `nest` does: a prompt of the run before would cost nothing
        else:
            nest(llm, skipped)
        options = vllm.SamplingParams(
            n=case.group,
            temperature=case.temperature,
            max_tokens=case.new_tokens,
            logprobs=0,
            ignore_eos=True,
            detokenize=False,
            seed=seed,
        )
        return list(llm.generate(prompts, options, use_tqdm=False))

    try:
        yield run
    finally:
        llm.llm_engine.engine_core.shutdown()


def count_tokens(answers: list[Any]) -> int:
    """All sampled tokens."""
    return sum(len(output.token_ids) for answer in answers for output in answer.outputs)


@torch.no_grad()
def logp_error(case: Case, skipped: Collection[int], answers: list[Any]) -> float:
    """The largest distance of vLLM's log-probabilities from those of the nested view, in nats."""
    view, worst = case.view(skipped), 0.0
    for answer in answers:
        for output in answer.outputs:
            sampled = torch.tensor(output.token_ids)
            reported = [step[token].logprob for token, step in zip(output.token_ids, output.logprobs, strict=True)]
            ids = torch.cat((torch.tensor(answer.prompt_token_ids), sampled)).unsqueeze(0)
            logits = view(input_ids=ids.to(view.device)).logits[0, -len(sampled) - 1 : -1].float().cpu()
            expected = torch.log_softmax(logits / case.temperature, dim=-1).gather(-1, sampled.unsqueeze(-1))
            worst = max(worst, float((expected.squeeze(-1) - torch.tensor(reported)).abs().max()))
    return worst
