"""What the phases of an experiment cost, from the model's shape: the least work, at a rate that the user states.

A phase takes max(FLOPs / F, bytes / W, o L): F and W are what the machine reaches, not what its data sheet says, o is
the time to launch the operations of a layer, whatever their size, and L counts the layers of all passes.

- FLOPs of n tokens at a mean context c: 2 n per entry of each layer's matrices, 4 n heads head_width c of attention in
  each layer, 2 r per entry of the head for r rows of logits (`evaluation.throughput.decode_costs`).
- Bytes: in each pass the matrices of the layers that are left, and the head; the keys and values that a token attends
  to, those of a prompt once per group. All other reads and writes are included in the rate W.
- Rollout of P prompts of S tokens, G completions each, of M tokens on average and T at most: prefill P S tokens in one
  pass, decode P G (M - 1) tokens in T - 1 passes, since some completion of a batch runs to the end.
- Update: forward over P S + P G M tokens; for the groups whose rewards are not all equal twice that backward (once with
  adapters, as frozen weights have no gradient), and one more forward with activation checkpointing; one more for all
  with a reference policy for KL; the weights in each of these passes of a micro-batch; 10 float32 values per trained
  parameter for gradient norm and AdamW.

Not counted: grading, tokenizing, Python between the operations, waiting for other GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from nested_reft.config.training import Training
from nested_reft.planning.shapes import Shape

# A trained parameter: norm reads g; clipping reads and writes g; AdamW reads p, g, m, v and writes p, m, v.
OPTIMIZER_VALUES = 10
FLOAT32 = 4
VALUE_BYTES = {"float32": FLOAT32, "bfloat16": 2}
ADAMW_STATES = 2
OPTIMIZER_BYTES = FLOAT32 * OPTIMIZER_VALUES


@dataclass(frozen=True)
class Machine:
    """What one GPU (or the CPU threads of a job) reaches."""

    flops: float
    """FLOP per second, of a large matrix product in the dtype of the training."""
    bandwidth: float
    """Bytes per second, when reading weights and cache."""
    layer_seconds: float
    """Time to launch the operations of one layer in one pass."""


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
    most_new_tokens: int
    """T."""

    @property
    def rows(self) -> int:
        return self.prompts * self.group


@dataclass(frozen=True)
class Costs:
    """The costs of one model on one machine; `value_bytes` is the size of a number in its matrix products."""

    shape: Shape
    machine: Machine
    value_bytes: int

    def _phase(self, flops: float, bytes_: float, layers: float) -> Work:
        machine = self.machine
        starting = layers * machine.layer_seconds
        return Work(flops, bytes_, max(flops / machine.flops, bytes_ / machine.bandwidth, starting))

    def rollout(self, batch: Batch, skipped: int = 0) -> Work:
        """Prefill and decoding without `skipped` layers."""
        shape, size = self.shape, self.value_bytes
        prompt, rows, passes = batch.prompts * batch.prompt_tokens, batch.rows, batch.most_new_tokens - 1
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
        step = self._phase(0, OPTIMIZER_BYTES * trained_parameters(self.shape, training), 0)
        reference = int(training.kl_coefficient > 0)
        return (gradient + step).times(training.updates_per_rollout) + forward.times(reference)

    def pretraining_step(self, batch: Batch) -> Work:
        """One batch: forward, twice that backward, and the optimizer."""
        step = self._phase(0, OPTIMIZER_BYTES * self.shape.parameters, 0)
        return self.forward(batch).times(3) + step

    def gradients(self, batch: Batch, skipped: int, estimates: int, training: Training) -> Work:
        """One batch of the bias and variance measurement: a rollout, and that many estimates from it."""
        forward = self.forward(batch)
        backward = forward.times(2 + int(training.gradient_checkpointing))
        return self.rollout(batch, skipped) + forward + backward.times(estimates)
