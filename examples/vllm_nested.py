"""Nested rollouts from vLLM: completions, with their log-probabilities, of a model without some of its layers.

pip install -e '.[vllm]'
python examples/vllm_nested.py [MODEL]
"""

from __future__ import annotations

import sys

import torch
import vllm

import nested_reft as nr
from nested_reft.integrations.vllm import engine_arguments, nest


def main(name: str) -> None:
    """Sample from the whole model, then from two nested ones."""
    llm = vllm.LLM(name, dtype="float32", max_model_len=256, **engine_arguments())  # essential: the arguments
    num_layers = llm.llm_engine.model_config.hf_config.num_hidden_layers
    sampling = vllm.SamplingParams(n=4, temperature=1.0, max_tokens=64, logprobs=0)
    for step, skip_percent in enumerate((0, 15, 15)):
        draw = torch.Generator().manual_seed(step)
        layers = nr.draw_skipped_layers(num_layers, skip_percent, border=1, generator=draw)
        nest(llm, layers)  # essential: from here on, these layers are left out
        for request in llm.generate(["What is 12 + 30?", "What is 7 * 6 - 2?"], sampling):
            for completion in request.outputs:
                print(f"without {layers}: log b = {completion.cumulative_logprob:.2f}: {completion.text!r}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "Qwen/Qwen2.5-0.5B-Instruct")
