"""How close we are to the machine's limit: FLOP/s and bytes/s of each phase over what plain operations reach here.

    python benchmarks/limit.py [--quick] [--device cpu|cuda] [--threads N] [--markdown]

P prompts of S tokens (mean), G completions each, B = P G, T new tokens each; no end token, so that the work is known.

- prefill: `sample_completions` of 1 token; decode: of T tokens, minus prefill, in pairs; update: that of `reft_step`.
- peaks, same threads and type: a matrix product of size N (2 N^3 FLOPs) and a copy of a large array (read and written).

The work is the least that the phase needs: a prompt is read once for its group, and nothing is padded.

- FLOPs of n tokens at a mean context c: 2 n per entry of each layer's matrices, 4 n heads head_width c of attention in
  each layer, 2 r per entry of the head for r rows of logits. Update: forward and twice that backward.
    prefill  n = P S, c = (S + 1) / 2, r = P
    decode   n = B (T - 1), c = S + T / 2, r = n
    update   prefill's and decode's in one forward
- bytes: every operand of every matrix product once: per pass the weights, per token each matrix's input and output; the
  keys and values of the context, the prompt's once per group. prefill and update: 1 pass; decode: T - 1. Update: three
  times the forward (backward has two products for each), and 10 values per parameter for AdamW and the gradient's norm.
  Norms, residuals, activations and softmax are not counted: they could be fused.

With the peaks F and W, a phase takes at least max(FLOPs / F, bytes / W). Keys per case and phase: `seconds`,
`flops_per_s`, `bytes_per_s`, `flops_share`, `bytes_share` (of the peaks), `overhead` = 1 - the larger of the two, and
`bound`: compute or memory if that share is at least a half, otherwise overhead: dispatch, small operations, what is not
fused. A model that fits the caches can move more bytes per second than the copy, whose array does not.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch
from common import (
    QWEN,
    SMOLLM2,
    laptop_batch,
    laptop_config,
    laptop_policy,
    laptop_problems,
    parse_options,
    print_result,
    random_model,
    random_prompts,
    smollm2_batch,
    timed_pairs,
)
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.config.run import BASELINE_CORRECTION, Run
from nested_reft.config.training import Training
from nested_reft.core.layers import nested_view
from nested_reft.core.rollout import Rollout
from nested_reft.engine.sampling import sample_completions
from nested_reft.planning.costs import OPTIMIZER_VALUES, Shape, Work
from nested_reft.rollouts.policy import Policy
from nested_reft.runtime.timing import now
from nested_reft.training.run import PhaseClock, make_learner
from nested_reft.training.step import reft_step

CASES = ("small", "large", SMOLLM2, QWEN)


def forward_work(
    model: PreTrainedModel, tokens: float, context: float, rows: float, passes: int, cached: float
) -> Work:
    """The work of forward passes over `tokens` at a mean `context`, with `rows` of logits.

    cached: how many positions' keys and values are read in each layer, over all passes.
    """
    shape = Shape(model)
    values = passes * shape.weights_read() + tokens * shape.adapter_sides + rows * (shape.vocabulary + shape.width)
    values += shape.layers * 2 * shape.key_value_width * cached
    return Work(shape.flops(tokens, context, rows), values * model.dtype.itemsize)


def phase_work(model: PreTrainedModel, prompt_mask: Tensor, group: int, new_tokens: int) -> dict[str, Work]:
    """The least work of each phase; see the formulas above."""
    prompts, real = len(prompt_mask), float(prompt_mask.sum())
    length, rows, steps = real / prompts, prompts * group, new_tokens - 1
    own = rows * steps * (steps + 1) / 2  # positions of a completion that its later tokens read
    context = length + new_tokens / 2
    prefill = forward_work(model, real, (length + 1) / 2, prompts, 1, real)
    decode = forward_work(model, rows * steps, context, rows * steps, steps, steps * real + own)
    together = forward_work(model, rows * steps, context, rows * steps, 0, rows * steps)
    step = OPTIMIZER_VALUES * Shape(model).parameters * model.dtype.itemsize
    update = Work(3 * (prefill.flops + together.flops), 3 * (prefill.bytes + together.bytes) + step)
    return {"prefill": prefill, "decode": decode, "update": update}


def peaks(dtype: torch.dtype, device: torch.device, quick: bool) -> Work:
    """FLOP/s of a large matrix product and bytes/s of a large copy: the best of nine."""
    size, megabytes = (128, 4) if quick else (2048 if device.type == "cpu" else 8192, 512)
    left, right = (torch.randn(size, size, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    source = torch.zeros(megabytes * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def best(work: Any) -> float:
        times = []
        for _ in range(10):
            started = now(device)
            work()
            times.append(now(device) - started)
        return min(times[1:])

    out = torch.empty_like(left)
    product, copy = best(lambda: torch.mm(left, right, out=out)), best(lambda: target.copy_(source))
    return Work(2 * size**3 / product, 2 * source.numel() / copy)


def phase_seconds(
    model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor, training: Training, pairs: int
) -> dict[str, float]:
    """Median seconds of each phase. Trains the model a little."""

    def sample(new_tokens: int, seed: int) -> Rollout:
        return sample_completions(
            nested_view(model, ()),
            prompt_ids,
            prompt_mask,
            group_size=training.completions_per_problem,
            max_new_tokens=new_tokens,
            temperature=training.temperature,
            end_ids=(),
            pad_id=0,
            generator=torch.Generator(model.device).manual_seed(seed),
        )

    done = timed_pairs(
        lambda pair: sample(1, pair + 1), lambda pair: sample(training.max_new_tokens, pair + 1), pairs, model.device
    )
    rewards = (torch.rand(len(prompt_ids), training.completions_per_problem) < 0.5).float()
    policy = Policy(model, None, end_ids=(), pad_id=0)  # type: ignore[arg-type]  # no text is read or written
    run = Run(size="", dataset="", correction=BASELINE_CORRECTION, skip=0, seed=0)
    learner = make_learner(policy, run, training, {})
    prompts = [ids[real].tolist() for ids, real in zip(prompt_ids, prompt_mask.bool(), strict=True)]
    updates = []
    for step in range(1, pairs + 2):
        clock = PhaseClock(model.device)
        reft_step(learner, step, prompts, lambda *_: rewards, clock.end_phase)
        clock.end_phase("update")
        updates.append(clock.slowest(learner.world)["update"])
    prefill = statistics.median(pair.seconds[0] for pair in done)
    decode = statistics.median(pair.seconds[1] - pair.seconds[0] for pair in done)
    return {"prefill": prefill, "decode": decode, "update": statistics.median(updates[1:])}


def rates(work: Work, peak: Work, seconds: float) -> dict[str, Any]:
    """The rates of a phase, their shares of the peaks, and what bounds it."""
    flops_share, bytes_share = work.flops / seconds / peak.flops, work.bytes / seconds / peak.bytes
    larger = max(flops_share, bytes_share)
    bound = "overhead" if larger < 0.5 else "compute" if flops_share >= bytes_share else "memory"
    return {
        "seconds": seconds,
        "flops_per_s": work.flops / seconds,
        "bytes_per_s": work.bytes / seconds,
        "flops_share": flops_share,
        "bytes_share": bytes_share,
        "overhead": max(1 - larger, 0.0),
        "bound": bound,
    }


def markdown(result: dict[str, Any]) -> str:
    """The table of docs/benchmarks.md."""
    lines = [
        "| model | phase | seconds | GFLOP/s | share of the matrix product | GB/s | share of the copy | bound by |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for name, phases in result["phases"].items():
        for phase, row in phases.items():
            flops, moved = f"{row['flops_per_s'] / 1e9:.3g}", f"{row['bytes_per_s'] / 1e9:.3g}"
            shares = f"{row['flops_share']:.1%}", f"{row['bytes_share']:.1%}"
            cells = name, phase, f"{row['seconds']:.3g}", flops, shares[0], moved, shares[1], row["bound"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    """This benchmark's own options."""
    parser.add_argument("--markdown", action="store_true", help="print the table too")
    parser.add_argument("--cases", nargs="+", choices=CASES, metavar="NAME", default=CASES, help="only these models")
    parser.add_argument("--pairs", type=int, metavar="N", help="timed runs of each phase (default 9; large models 2)")


def main() -> None:
    """Measure every model, and print the JSON line."""
    options = parse_options(__doc__, add_options)
    device, config = torch.device(options.device), laptop_config(options.quick)
    result: dict[str, Any] = {"peaks": {}, "phases": {}, "dtype": {}}
    for name in options.cases:
        training = config.training
        if name in config.sizes:
            policy = laptop_policy(config, name, options)
            model, pairs = policy.model, 9
            prompt_ids, prompt_mask = laptop_batch(config, policy, laptop_problems(config), 0)
        elif name == SMOLLM2 and not options.quick:
            own, policy, prompt_ids, prompt_mask = smollm2_batch(options)
            model, pairs, training = policy.model, 2, own.training
        else:
            model, pairs = random_model(name, options), 2
            training = training.model_copy(update={"max_new_tokens": 32, "problems_per_micro_batch": 1})
            prompt_ids, prompt_mask = random_prompts(model, 4, 64)
        pairs = options.pairs or (2 if options.quick else pairs)
        dtype = model.dtype
        peak = peaks(dtype, device, options.quick)
        print(f"{name}: peaks {peak.flops / 1e9:.3g} GFLOP/s, {peak.bytes / 1e9:.3g} GB/s, {dtype}", flush=True)
        work = phase_work(model, prompt_mask, training.completions_per_problem, training.max_new_tokens)
        seconds = phase_seconds(model, prompt_ids, prompt_mask, training, pairs)
        rows = {phase: rates(work[phase], peak, seconds[phase]) for phase in work}
        for phase, row in rows.items():
            print(
                f"{name}, {phase}: {row['seconds']:.3g} s, {row['flops_share']:.1%} of the matrix product, "
                f"{row['bytes_share']:.1%} of the copy: bound by {row['bound']}",
                flush=True,
            )
        result["peaks"][name] = {"flops_per_s": peak.flops, "bytes_per_s": peak.bytes}
        result["phases"][name] = rows
        result["dtype"][name] = str(dtype).removeprefix("torch.")
        del model
    if options.markdown:
        print(markdown(result))
    print_result("limit", options, result)


if __name__ == "__main__":
    main()
