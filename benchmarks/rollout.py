"""Rollouts: our sampler against transformers' `generate`, and nested views against the ideal speed-up.

    python benchmarks/rollout.py [--quick] [--device cpu|cuda] [--threads N] [--cases NAME ...] [--precisions NAME ...]

Both sides have the same weights, prompts, group size, temperature, limit and end token. Only real tokens count: up to
and including the end token, not the padding after it. Cases on a CPU: the two pre-trained models of the default
experiment on its own problems (completions end at different lengths), the unmodified SmolLM2-135M-Instruct on the same
problems with the prompt and the limits of config/smollm2.yaml, and a model of the shape of Qwen2.5-0.5B with random
weights and no end token. All are in float32, and `generate` samples in it; our rollouts are in each of the precisions.
On a GPU: the shapes of Qwen2.5-Math-1.5B and 7B in bfloat16 at batches of 64 and 256, and transformers' continuous
batching (`generate_batch`) as a second peer.

`generate` has its natural settings: a cache, `num_return_sequences`, left padding, no scores kept; it does not keep
log-probabilities, ours does. Checked before anything is timed: greedy completions are the same tokens (an error in
float32; reported in bfloat16, where near ties flip), and afterwards: both sides' mean lengths agree within noise.

Keys, by case and precision: `ratio` is ours over generate's tokens/s, with matrices that were made before (`packing_s`,
once per update); `skip_efficiency` how much faster the nested view is than the full one
(no end token: equal work), over the ideal by the layers' share of the cost (`ideal_speedup`, which counts the head).
`ratio_spread` and `skip_speedup` have median and quartiles.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from typing import Any

import torch
from common import (
    QWEN,
    SMOLLM2,
    Spread,
    fail,
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
from rollout_sides import Case, continuous_batching, nested_pairs, ours, their_tokens, theirs

from nested_reft.engine.layer_weights import RolloutWeights
from nested_reft.engine.matrices import PRECISIONS, why_no_precision
from nested_reft.evaluation.throughput import ideal_speedup

LAPTOP_SKIPS, LARGE_SKIPS = (12, 25, 38), (5, 10, 15)
# In standard errors; if two mean lengths differ only by chance, one pair in 16,000 is further apart.
MAX_DEVIATION = 4.0
MIN_IDENTICAL = 0.9  # of greedy completions in float32: a tie may be broken differently, an error breaks most


def case_names(device: str) -> list[str]:
    """The cases of a device, in the order in which they run."""
    if device == "cpu":
        return ["small", "large", SMOLLM2, QWEN]
    return [f"qwen2.5-math-{size}-batch{batch}" for size in ("1.5b", "7b") for batch in (64, 256)]


def make_case(name: str, options: argparse.Namespace) -> Case:
    """A case by name, in the model's own precision: its model is loaded here, and freed with the case."""
    if name in ("small", "large") or (name == SMOLLM2 and not options.quick):
        if name == SMOLLM2:
            config, policy, prompt_ids, prompt_mask = smollm2_batch(options)
        else:
            config = laptop_config(options.quick)
            policy = laptop_policy(config, name, options)
            prompt_ids, prompt_mask = laptop_batch(config, policy, laptop_problems(config), 0)
        training, skips = config.training, LARGE_SKIPS if name == SMOLLM2 else LAPTOP_SKIPS
        return Case(
            name,
            policy.model,
            prompt_ids,
            prompt_mask,
            training.completions_per_problem,
            training.max_new_tokens,
            training.temperature,
            policy.end_ids,
            policy.pad_id,
            skips,
        )
    shape, _, batch = name.partition("-batch")
    model = random_model(shape, options, torch.float32 if options.device == "cpu" else None)
    group = 8
    prompts, prompt_tokens, new_tokens = (int(batch) // group, 256, 512) if batch else (4, 64, 32)
    if options.quick:
        prompts, prompt_tokens, new_tokens = 2, 8, 4
    prompt_ids, prompt_mask = random_prompts(model, prompts, prompt_tokens)
    return Case(name, model, prompt_ids, prompt_mask, group, new_tokens, 1.0, (), 0, LARGE_SKIPS)


def greedy_identity(case: Case) -> float:
    """The share of prompts whose greedy completion has the same tokens on both sides."""
    rollout = ours(case, case.view(()), 0, temperature=0.0, group_size=1)
    mine = [tokens[mask].tolist() for tokens, mask in zip(rollout.tokens, rollout.mask, strict=True)]
    other = their_tokens(case, theirs(case, 0, greedy=True))
    return sum(a == b for a, b in zip(mine, other, strict=True)) / len(mine)


def compare(case: Case, pairs: int) -> dict[str, Any]:
    """Ratio, tokens per second and mean lengths of both sides; ends the program if the lengths differ."""
    records = timed_pairs(
        lambda pair: ours(case, case.view(()), pair + 1), lambda pair: theirs(case, pair + 1), pairs, case.model.device
    )
    lengths: tuple[list[int], list[int]] = ([], [])
    speeds: tuple[list[float], list[float]] = ([], [])
    ratios, processor = [], []
    for record in records:
        rollout, generated = record.results
        of_pair = rollout.mask.sum(-1).tolist(), [len(tokens) for tokens in their_tokens(case, generated)]
        for side in (0, 1):
            lengths[side].extend(of_pair[side])
            speeds[side].append(sum(of_pair[side]) / record.seconds[side])
        share = sum(of_pair[0]) / sum(of_pair[1])
        ratios.append(share * record.seconds[1] / record.seconds[0])
        processor.append(share * record.processor[1] / record.processor[0])
    check_lengths(case.name, *lengths)
    means = [sum(side) / len(side) for side in lengths]
    ratio, of_processor = Spread.of(ratios), Spread.of(processor)
    ours_speed, their_speed = Spread.of(speeds[0]).median, Spread.of(speeds[1]).median
    print(
        f"{case.name}: ours {ours_speed:,.0f} tokens/s, generate {their_speed:,.0f}: ratio {ratio}, of "
        f"processor time {of_processor}, {pairs} pairs; mean length {means[0]:.2f} and {means[1]:.2f}",
        flush=True,
    )
    return {
        "ratio": ratio,
        "ratio_processor": of_processor.median,
        "tokens_per_s": {"ours": ours_speed, "generate": their_speed},
        "mean_length": {"ours": means[0], "generate": means[1]},
    }


def check_lengths(name: str, first: list[int], second: list[int]) -> None:
    """End the program if the mean lengths differ by more than chance: then it is not the same work."""
    (mean_a, error_a), (mean_b, error_b) = (mean_and_error(side) for side in (first, second))
    if abs(mean_a - mean_b) > MAX_DEVIATION * math.hypot(error_a, error_b):
        fail(f"{name}: mean length is {mean_a:.3f} here and {mean_b:.3f} with generate: not the same distribution")


def mean_and_error(values: list[int]) -> tuple[float, float]:
    """Mean and its standard error."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)
    return mean, math.sqrt(variance / len(values))


def skip_speedups(case: Case, pairs: int) -> dict[str, dict[str, Any]]:
    """For each skip: measured speed-up over skip 0 on equal work, the ideal one, and their ratio."""
    num_layers = case.model.config.num_hidden_layers
    context = case.prompt_mask.sum(-1).double().mean().item() + case.new_tokens / 2
    found = {}
    for skip in case.skips:
        drawn, records = nested_pairs(
            case, skip, pairs, lambda skipped, seed: ours(case, case.view(skipped), seed, end_ids=())
        )
        speedup = Spread.of([record.seconds[0] / record.seconds[1] for record in records])
        of_processor = Spread.of([record.processor[0] / record.processor[1] for record in records])
        ideal = ideal_speedup(case.model, len(drawn[0]), context)
        efficiency, by_processor = speedup.median / ideal, of_processor.median / ideal
        found[str(skip)] = {
            "speedup": speedup,
            "ideal": ideal,
            "efficiency": efficiency,
            "efficiency_processor": by_processor,
        }
        print(
            f"{case.name}: skip {skip} % ({len(drawn[0])} of {num_layers} layers): {speedup} times the speed, ideal "
            f"{ideal:.3f}: efficiency {efficiency:.3f}, of processor time {by_processor:.3f}",
            flush=True,
        )
    return found


def compare_continuous_batching(case: Case, pairs: int) -> Spread:
    """Ours over continuous batching's tokens per second."""
    with continuous_batching(case) as batched:
        records = timed_pairs(
            lambda pair: ours(case, case.view(()), pair + 1), lambda pair: batched(), pairs, case.model.device
        )
    ratios = []
    for record in records:
        rollout, generated = record.results
        first, second = record.seconds
        ratios.append((int(rollout.mask.sum()) / first) / (generated / second))
    ratio = Spread.of(ratios)
    print(f"{case.name}: ours over continuous batching: {ratio}, {pairs} pairs", flush=True)
    return ratio


def measure(case: Case, pairs: int, exact: bool) -> dict[str, Any]:
    """Everything about a case in one precision; `exact` if its greedy completions must be those of generate."""
    started = time.perf_counter()
    ours(replace(case, new_tokens=1), case.view(()), 0)
    first = time.perf_counter() - started
    ours(replace(case, new_tokens=1), case.view(()), 0)
    packing = max(0.0, 2 * first - (time.perf_counter() - started))
    identical = greedy_identity(case)
    print(f"{case.name}: {identical:.0%} of greedy completions are the same tokens", flush=True)
    if exact and identical < MIN_IDENTICAL:
        fail(f"{case.name}: greedy completions differ from those of generate")
    compared, skips = compare(case, pairs), skip_speedups(case, pairs)
    ratio = compared.pop("ratio")
    return {
        "ratio": ratio.median,
        "ratio_spread": ratio,
        "packing_s": packing,
        "pairs": pairs,
        "greedy_identical": identical,
        **compared,
        **{
            f"skip_{key}": {skip: entry[key] for skip, entry in skips.items()}
            for key in ("efficiency", "efficiency_processor", "speedup", "ideal")
        },
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """This benchmark's own options."""
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="only these cases")
    parser.add_argument(
        "--precisions", nargs="+", metavar="NAME", choices=PRECISIONS, help="of our rollouts (default: the model's own)"
    )
    parser.add_argument("--pairs", type=int, metavar="N", help="pairs per comparison (default 15; large models 5)")


def main() -> None:
    """Measure every case, and print the JSON line."""
    options = parse_options(__doc__, add_options)
    known = case_names(options.device)
    names = options.cases or known
    if unknown := sorted(set(names) - set(known)):
        fail(f"unknown cases {', '.join(unknown)}; on {options.device}: {', '.join(known)}")
    for precision in options.precisions or ():
        if reason := why_no_precision(precision, torch.device(options.device)):
            fail(f"--precisions {precision}: {reason}")
    result: dict[str, Any] = {}
    for name in names:
        case = make_case(name, options)
        own = str(case.model.dtype).removeprefix("torch.")
        pairs = options.pairs or (2 if options.quick else 15 if case.end_ids else 5)
        for precision in options.precisions or [own]:
            in_precision = replace(case, name=f"{name} in {precision}", weights=RolloutWeights(precision))
            for key, value in measure(in_precision, pairs, exact=precision == own == "float32").items():
                result.setdefault(key, {}).setdefault(name, {})[precision] = value
        if options.device == "cuda" or (options.quick and not case.end_ids):
            batched = compare_continuous_batching(case, pairs)
            result.setdefault("ratio_continuous_batching", {})[name] = batched.median
        del case
    print_result("rollout", options, result)


if __name__ == "__main__":
    main()
