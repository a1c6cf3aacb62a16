"""What one model costs, from its shape: the least time of each phase at rates that the user states, and GPU memory.

A phase takes max(FLOPs / F, bytes / W, o L): F and W are what the machine reaches, not what its data sheet says, o is
the time to launch the operations of a layer, whatever their size, and L counts the layers of all passes. P prompts of S
tokens have G completions each, of M tokens on average and T at most:

- rollout: prefill of P S tokens in one pass, then P G (M - 1) tokens in T - 1 passes, since some completion of a batch
  runs to the end. Bytes are the matrices of each pass, and the keys and values that a token attends to, those of a
  prompt once per group; all other reads and writes are included in the rate W;
- update: forward over P S + P G M tokens, and twice that backward (once with adapters, as frozen weights have no
  gradient); gradient norm and AdamW read or write 10 float32 values per trained parameter.

Not counted: grading, tokenizing, Python between the operations, waiting for other GPUs.

Activations that autograd keeps per token and layer, for the memory of a step; D is the width, Q the queries', K the
keys', F the feed-forward's, w bytes per value of the products, c the mean number of tokens that a completion's
attention sees, M its own tokens:

    norms      2 (12 D + w D if that is a copy)   residual, what the norm keeps of it, its result in w bytes
    attention  3 w Q + 2 w K c / M                queries, output, output in the order of the next product; keys, values
    MLP        4 w F                              gate, silu, up, and their product
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from nested_reft.config.experiment import Config
from nested_reft.config.planned import AboveZero, Share
from nested_reft.config.rollout_engine import Vllm
from nested_reft.config.sources import SHAPE_KEYS, ScratchModel
from nested_reft.config.strict import Positive, Strict
from nested_reft.config.training import Lora, Training
from nested_reft.core.layers import decoder_layers
from nested_reft.data.provenance import check_shape
from nested_reft.engine.grouped_decoder import MAX_WIDTH
from nested_reft.engine.logp import MAX_LOGITS
from nested_reft.evaluation.throughput import decode_costs
from nested_reft.training.pretrain import build_model, build_tokenizer

# A trained parameter: norm reads g; clipping reads and writes g; AdamW reads p, g, m, v and writes p, m, v.
OPTIMIZER_VALUES = 10
ADAMW_STATES = 2
FLOAT32 = 4
VALUE_BYTES = {"float32": FLOAT32, "bfloat16": 2, "int8": 1}
LOGIT_COPIES = 3  # in float32, in the loss's backward pass
GB = 1e9
Way = Literal["all weights", "shards", "adapters"]

# --- the model --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """A model on torch's meta device, and what is derived from it. Counts are of entries, not bytes."""

    model: PreTrainedModel

    @cached_property
    def parameters(self) -> int:
        """All parameters; a tied matrix counts once, as it is stored."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @cached_property
    def adapter_sides(self) -> int:
        """Rows plus columns of all matrices in the layers: the size of an adapter of rank 1 in each of them."""
        modules = decoder_layers(self.model).modules()
        return sum(sum(module.weight.shape) for module in modules if isinstance(module, nn.Linear))

    @cached_property
    def outside(self) -> int:
        """Parameters outside the layers: embedding, head and the last norm."""
        return self.parameters - sum(parameter.numel() for parameter in decoder_layers(self.model).parameters())

    @property
    def layers(self) -> int:
        return len(decoder_layers(self.model))

    @cached_property
    def layer_matrices(self) -> int:
        """Entries of one layer's matrices."""
        modules = decoder_layers(self.model)[0].modules()
        return sum(module.weight.numel() for module in modules if isinstance(module, nn.Linear))

    @property
    def width(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def query_width(self) -> int:
        """Heads times head width."""
        return self._projection("q_proj")

    @property
    def key_value_width(self) -> int:
        """Entries of a token's keys in one layer; its values have as many."""
        return self._projection("k_proj")

    def _projection(self, name: str) -> int:
        attention: Any = decoder_layers(self.model)[0].self_attn
        return int(getattr(attention, name).out_features)

    @property
    def feed_forward(self) -> int:
        return int(self.model.config.intermediate_size)

    @property
    def vocabulary(self) -> int:
        return int(self.model.config.vocab_size)

    @property
    def tied(self) -> bool:
        """Whether embedding and head are one matrix."""
        return self.model.get_output_embeddings().weight is self.model.get_input_embeddings().weight

    def flops(self, tokens: float, context: float, rows: float, skipped: int = 0) -> float:
        """FLOPs of a forward pass over `tokens` at mean `context`, with `rows` of logits, without `skipped` layers."""
        layer, head = decode_costs(self.model, context)
        return tokens * (self.layers - skipped) * layer + rows * head

    def weights_read(self, skipped: int = 0) -> int:
        """Entries that a pass reads: the matrices of the layers that are left, and the head."""
        return (self.layers - skipped) * self.layer_matrices + self.vocabulary * self.width


def model_shape(config: Config, size: str, results: Path) -> Shape | None:
    """The shape of a size: made here, or fetched to `results`/models, or as the config says; None if unknown.

    DataError if the config says otherwise than what was fetched.
    """
    model, fetched = config.sizes[size], results / "models" / size
    with torch.device("meta"):
        if isinstance(model, ScratchModel):
            return Shape(build_model(model, build_tokenizer(config.prompt), 0))
        if (fetched / "config.json").is_file():
            if model.shape is not None:
                check_shape(size, model.shape, fetched)
            return Shape(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(fetched)))
        if model.shape is None:
            return None
        stated = {SHAPE_KEYS[key]: value for key, value in model.shape.model_dump().items()}
        settings = AutoConfig.for_model(**stated, num_hidden_layers=model.layers)
        return Shape(AutoModelForCausalLM.from_config(settings))


# --- time -------------------------------------------------------------------------------------------------------


class Assumptions(Strict):
    """What the plan cannot know and the user can state, by the options of their names."""

    teraflops: AboveZero
    gigabytes_per_s: AboveZero
    layer_us: Annotated[float, Field(ge=0)]
    prompt_tokens: Positive
    length: Share = 1.0
    mixed: Share = 1.0
    distinct: Share = 1.0
    startup: Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Work:
    """The work of consecutive phases, and the sum of their seconds."""

    flops: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes, self.seconds + other.seconds)

    def times(self, count: float) -> Work:
        return Work(count * self.flops, count * self.bytes, count * self.seconds)


def trained_parameters(shape: Shape, training: Training) -> int:
    """All parameters, or those of the adapters."""
    return training.lora.rank * shape.adapter_sides if training.lora else shape.parameters


@dataclass(frozen=True)
class Batch:
    """Problems that are answered together."""

    prompts: int
    prompt_tokens: float
    """Mean, S."""
    group: int
    """Completions per prompt, G."""
    new_tokens: float
    """Mean, M."""
    max_new_tokens: int
    """T."""

    @property
    def rows(self) -> int:
        return self.prompts * self.group


@dataclass(frozen=True)
class Costs:
    """The costs of one model on one machine; `value_bytes` is the size of a number in its matrix products."""

    shape: Shape
    assumed: Assumptions
    value_bytes: int

    def _phase(self, flops: float, bytes_: float, layers: float) -> Work:
        rates = self.assumed
        least = (flops / rates.teraflops / 1e12, bytes_ / rates.gigabytes_per_s / GB, layers * rates.layer_us * 1e-6)
        return Work(flops, bytes_, max(least))

    def _optimizer(self, trained: int) -> Work:
        return self._phase(0, FLOAT32 * OPTIMIZER_VALUES * trained, 0)

    def rollout(self, batch: Batch, skipped: int = 0) -> Work:
        """Prefill and decoding without `skipped` layers."""
        shape, size = self.shape, self.value_bytes
        prompt, rows, passes = batch.prompts * batch.prompt_tokens, batch.rows, batch.max_new_tokens - 1
        layers = shape.layers - skipped
        cached = 2 * shape.key_value_width * layers  # values of one token
        weights = shape.weights_read(skipped)
        prefill = self._phase(
            shape.flops(prompt, (batch.prompt_tokens + 1) / 2, batch.prompts, skipped),
            size * (weights + prompt * cached),
            layers,
        )
        decoded = rows * max(batch.new_tokens - 1, 0)
        context = batch.prompt_tokens + batch.new_tokens / 2
        attended = passes * prompt + decoded * batch.new_tokens / 2  # tokens whose keys and values are read
        decode = self._phase(
            shape.flops(decoded, context, decoded, skipped),
            size * (passes * weights + attended * cached),
            passes * layers,
        )
        return prefill + decode

    def forward(self, batch: Batch) -> Work:
        """Log-probabilities of a rollout's tokens under the whole model."""
        prompt, new = batch.prompts * batch.prompt_tokens, batch.rows * batch.new_tokens
        context = batch.prompt_tokens + batch.new_tokens / 2
        flops = self.shape.flops(prompt, (batch.prompt_tokens + 1) / 2, 0) + self.shape.flops(new, context, new)
        return self._phase(flops, self.value_bytes * self.shape.weights_read(), self.shape.layers)

    def read(self, prompts: int, tokens: float) -> Work:
        """The next token's distribution at every token of prompts."""
        count = prompts * tokens
        flops = self.shape.flops(count, (tokens + 1) / 2, count)
        return self._phase(flops, self.value_bytes * self.shape.weights_read(), self.shape.layers)

    def update(self, batch: Batch, training: Training, mixed: float = 1.0) -> Work:
        """The updates on one rollout; a share `mixed` of its groups has a backward pass."""
        parts = ceil(batch.prompts / (training.problems_per_micro_batch or batch.prompts))
        passes = 1 + mixed * (2 + int(training.gradient_checkpointing) - int(training.lora is not None))
        weights = self.value_bytes * self.shape.weights_read()
        forward = self.forward(batch)
        gradient = self._phase(passes * forward.flops, passes * parts * weights, passes * parts * self.shape.layers)
        step = self._optimizer(trained_parameters(self.shape, training))
        reference = int(training.kl_coefficient > 0)
        return (gradient + step).times(training.updates_per_rollout) + forward.times(reference)

    def pretraining_step(self, batch: Batch) -> Work:
        """One batch: forward, twice that backward, and the optimizer."""
        return self.forward(batch).times(3) + self._optimizer(self.shape.parameters)

    def gradients(self, batch: Batch, skipped: int, estimates: int, checkpointing: bool) -> Work:
        """One batch of the bias and variance measurement: a rollout, and that many estimates from it."""
        forward = self.forward(batch)
        backward = forward.times(2 + int(checkpointing))
        return self.rollout(batch, skipped) + forward + backward.times(estimates)


# --- memory -----------------------------------------------------------------------------------------------------


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
    """Keys and values, the logits of a step, and matrices laid out for rollouts; or vLLM's share of the GPU."""
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
    if way == "all weights":  # the others are sampled by the model's own forward
        rollout += VALUE_BYTES[training.rollout_precision or training.dtype] * shape.weights_read()
    logits = micro * group * new * shape.vocabulary
    if way == "all weights":
        logits = min(logits, MAX_LOGITS)
    return Memory(
        weights=weights,
        gradients=FLOAT32 * trained,
        optimizer=ADAMW_STATES * FLOAT32 * trained,
        copies=copies[way],
        activations=shape.layers * tokens * kept,
        checkpointed=tokens * (shape.layers * FLOAT32 * shape.width + kept),
        logits=LOGIT_COPIES * FLOAT32 * logits + head,
        embedding=(3 if shape.tied else 2) * head,
        rollout=rollout if vllm is None else vllm.memory_share * gpus.gigabytes * GB,
        rollout_stays=vllm is not None and not vllm.sleep,
    )


def vllm_fits(shape: Shape, training: Training, gigabytes: float, vllm: Vllm) -> bool:
    """Whether vLLM's share of a GPU holds the weights, and keys and values of one prompt and completion."""
    tokens = training.max_prompt_tokens + training.max_new_tokens
    values = shape.parameters + 2 * shape.key_value_width * shape.layers * tokens
    return VALUE_BYTES[training.dtype] * values < vllm.memory_share * gigabytes * GB
