"""Bytes of memory that one process takes at the peak of a training step, beyond what it took before it had a model.

[torchrun ...] measured_peak.py WAY DTYPE [checkpointing]   # WAY: as in `planning.costs`; prints one line of JSON
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import accumulate

import torch
from tiny_training import tiny_settings
from transformers import Qwen2Config, Qwen2ForCausalLM

from nested_reft.config.training import Training
from nested_reft.planning.costs import Gpus, Shape, plan_memory
from nested_reft.rollouts.policy import Policy
from nested_reft.training.run import make_learner
from nested_reft.training.step import reft_step
from nested_reft.training.world import init_distributed

PROMPT = 40
# 33 million parameters, of which a fifth are outside the layers.
SHAPE = {
    "vocab_size": 12_000, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 7,
    "num_attention_heads": 8, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip
TRAINING = {
    "problems_per_step": 2, "completions_per_problem": 4, "max_new_tokens": 24, "problems_per_micro_batch": 1,
    "steps": 2, "learning_rate": 1e-4,
}  # fmt: skip


def allocated_peak(work: Callable[[], None]) -> int:
    """The most bytes that torch had allocated at a time during the work, of those that it allocated in it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    changes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(changes))


def steps(policy: Policy, training: Training) -> None:
    """Two steps: the second has the optimizer's states."""
    with init_distributed("cpu") as world:
        run = tiny_settings(skip=0).run
        learner = make_learner(policy, run, training, {}, world)
        learner.refresh_sampler()
        rewards = torch.eye(training.problems_per_step // world.size, training.completions_per_problem)
        prompts = torch.randint(policy.model.config.vocab_size, (training.problems_per_step, PROMPT)).tolist()
        for step in (1, 2):
            reft_step(learner, step, prompts, lambda *_: rewards)
            learner.refresh_sampler()


def main(way: str, dtype: str, *options: str) -> None:
    torch.manual_seed(1)
    settings = {**TRAINING, "dtype": dtype, "gradient_checkpointing": bool(options)}
    settings |= {"sharding": True} if way == "shards" else {"lora": {"rank": 8}} if way == "adapters" else {}
    training = tiny_settings(**settings).training

    def work() -> None:
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPE)).eval()
        if way == "adapters":  # frozen weights have the dtype of the products
            for parameter in model.parameters():
                parameter.data = parameter.data.to(getattr(torch, dtype))
        steps(Policy(model, None, end_ids=(), pad_id=0), training)

    measured = allocated_peak(work)
    gpus = Gpus(2 if way == "shards" else 1, 0.0)
    planned = plan_memory(Shape(Qwen2ForCausalLM(Qwen2Config(**SHAPE))), training, PROMPT, gpus, way)
    print(json.dumps({"measured": measured, "planned": planned.peak(bool(options))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
