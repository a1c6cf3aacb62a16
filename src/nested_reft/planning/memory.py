"""GPU memory of one training step, part by part: an estimate from the model's shape, for one GPU or several.

Three ways to train: all weights, on one GPU or with all states on each; shards of them on several GPUs
(`training.sharding`), plus a replica in the dtype of the products, which samples, and the layer and the outer matrices
that are gathered while they compute; only adapters (`training.lora`), on frozen weights in that dtype.

Activations that autograd keeps per token and layer; D is the width, Q the queries', K the keys', F the feed-forward's,
w bytes per value of the products, c the mean number of tokens that a completion's attention sees, M its own tokens:

    norms      2 (12 D + w D if that is a copy)   residual, what the norm keeps of it, its result in w bytes
    attention  3 w Q + 2 w K c / M                queries, output, output in the order of the next product; keys, values
    MLP        4 w F                              gate, silu, up, and their product

With activation checkpointing (`training.gradient_checkpointing`), one residual stream (4 D) per layer is kept, and only
one layer's activations exist at a time. The logits of a micro-batch, V entries per token, exist three times in float32
in the loss's backward pass.

The gradient of the head exists beside the activations; at the end of the backward pass, that of the embedding, and if
the two are tied, their sum. Shards are gathered while they compute: up to three layers, and the outer matrices with a
buffer. So are their gradients, which are float32 when they are added up.

With `rollout_engine: vllm` the rollout's memory is vLLM's share of the GPU. It is taken beside an update's, unless vLLM
sleeps then.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

from nested_reft.config.rollout_engine import Vllm
from nested_reft.config.training import Lora, Training
from nested_reft.engine.grouped_decoder import MAX_WIDTH
from nested_reft.planning.costs import ADAMW_STATES, FLOAT32, VALUE_BYTES
from nested_reft.planning.shapes import Shape

USABLE = 0.9  # of a GPU's memory: the rest is torch's context and fragmentation
LOGIT_COPIES = 3
GB = 1e9
Way = Literal["all weights", "shards", "adapters"]


@dataclass(frozen=True)
class Gpus:
    """Some equal GPUs for one job."""

    count: int
    gigabytes: float

    def __str__(self) -> str:
        return f"{self.count} x {self.gigabytes:g} GB"


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU."""

    weights: float
    gradients: float
    optimizer: float
    copies: float
    """Of weights, in the dtype of the products, and of gathered shards and their gradients."""
    activations: float
    """Of one micro-batch, all kept."""
    checkpointed: float
    """The same, with activation checkpointing."""
    logits: float
    """Of one micro-batch, and the gradient of the head."""
    embedding: float
    """What the gradient of the embedding takes beside the head's, when no activations are left."""
    rollout: float
    """Cache of keys and values, and the logits of a step; or vLLM's share of the GPU."""
    rollout_stays: bool = False
    """Whether the rollout's memory stays taken during an update."""

    def peak(self, checkpointing: bool) -> float:
        """States, and rollout and update: the larger, if they do not overlap."""
        update = max((self.checkpointed if checkpointing else self.activations) + self.logits, self.embedding)
        both = update + self.rollout if self.rollout_stays else max(update, self.rollout)
        return self.weights + self.gradients + self.optimizer + self.copies + both


def layer_activations(shape: Shape, value_bytes: int, completion_keys: float) -> float:
    """Bytes that autograd keeps of one token in one layer; `completion_keys` is c / M of the formula above."""
    copied = value_bytes if value_bytes != FLOAT32 else 0
    norms = 2 * (3 * FLOAT32 + copied) * shape.width
    attention = 3 * value_bytes * shape.query_width + 2 * value_bytes * shape.key_value_width * completion_keys
    return norms + attention + 4 * value_bytes * shape.feed_forward


def plan_memory(
    shape: Shape, training: Training, prompt_tokens: int, gpus: Gpus, way: Way, vllm: Vllm | None = None
) -> Memory:
    """The memory of a step whose completions all have the maximal length; adapters have the rank of the config."""
    size = VALUE_BYTES[training.dtype]
    lora = training.lora or Lora()
    states = {
        "all weights": (FLOAT32 * shape.parameters, shape.parameters),
        "shards": (FLOAT32 * shape.parameters / gpus.count, shape.parameters / gpus.count),
        "adapters": (size * shape.parameters, lora.rank * shape.adapter_sides),
    }
    layer = (shape.parameters - shape.outside) / shape.layers
    copies = {
        "all weights": size * shape.weights_read() if training.dtype != "float32" else 0,
        "shards": size * shape.parameters + (2 * size + FLOAT32) * shape.outside + (size + FLOAT32) * 3 * layer,
        "adapters": 0,
    }
    weights, trained = states[way]
    head = FLOAT32 * shape.vocabulary * shape.width if way == "all weights" else 0  # of shards it is among the copies

    group, new = training.completions_per_problem, training.max_new_tokens
    prompts = ceil(training.problems_per_step / gpus.count)
    micro = min(training.problems_per_micro_batch or prompts, prompts)
    # A model's own forward, which shards and adapters need, reads the prompt with each completion.
    tokens = micro * ((prompt_tokens if way == "all weights" else group * prompt_tokens) + group * new)
    kept = layer_activations(shape, size, (prompt_tokens + new) / new)
    cached = prompts * (ceil(group / MAX_WIDTH) * prompt_tokens + group * new)
    rollout = (
        size * 2 * shape.key_value_width * shape.layers * cached
        + LOGIT_COPIES * FLOAT32 * prompts * group * shape.vocabulary
    )
    return Memory(
        weights=weights,
        gradients=FLOAT32 * trained,
        optimizer=ADAMW_STATES * FLOAT32 * trained,
        copies=copies[way],
        activations=shape.layers * tokens * kept,
        checkpointed=tokens * (shape.layers * FLOAT32 * shape.width + kept),
        logits=LOGIT_COPIES * FLOAT32 * micro * group * new * shape.vocabulary + head,
        embedding=(3 if shape.tied else 2) * head,
        rollout=rollout if vllm is None else vllm.memory_share * gpus.gigabytes * GB,
        rollout_stays=vllm is not None and not vllm.sleep,
    )


def vllm_fits(shape: Shape, training: Training, gpus: Gpus, vllm: Vllm) -> bool:
    """Whether vLLM's share of a GPU holds the weights, and keys and values of one prompt and completion."""
    tokens = training.max_prompt_tokens + training.max_new_tokens
    values = shape.parameters + 2 * shape.key_value_width * shape.layers * tokens
    return VALUE_BYTES[training.dtype] * values < vllm.memory_share * gpus.gigabytes * GB
