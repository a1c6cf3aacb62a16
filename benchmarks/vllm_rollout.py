"""Rollouts of our sampler against vLLM's, and what skipping layers gains inside vLLM.

    python benchmarks/vllm_rollout.py [--quick] [--threads N] [--pairs N]

It needs an environment with vLLM (`make test-vllm` makes one: .venv-vllm). The model has 65 million random parameters
in 16 layers, in float32 on a CPU; 8 prompts of 60 tokens x 8 completions of 48, at temperature 1. Both sides keep the
log-probability of every token. vLLM is eager, in this process, with its defaults otherwise; its prefix cache is empty
at the start of each rollout, as after a switch or an update.

Keys: `ratio` is ours over vLLM's tokens/s; `skip_efficiency` is how much faster vLLM is with so many layers left out,
over the ideal by the layers' share of the cost; `logp_error` is the largest distance of vLLM's log-probabilities from
those of the nested view in transformers, in nats.
"""

from __future__ import annotations

import argparse
from typing import Any

from common import Spread, fail, parse_options, print_result, random_model, random_prompts, timed_pairs
from rollout_sides import Case, nested_pairs, ours
from vllm_sides import Sampler, count_tokens, installed, logp_error, vllm_engine, vllm_version

from nested_reft.evaluation.throughput import ideal_speedup

NAME = "65m"
SKIPS = (12, 25, 38, 50)  # per cent: 2, 4, 6 and 8 of 16 layers


def compare(case: Case, sample: Sampler, pairs: int) -> dict[str, Any]:
    """Our tokens per second and vLLM's, and their ratio by the clock and by processor time."""
    records = timed_pairs(
        lambda pair: ours(case, case.view(()), pair + 1), lambda pair: sample((), pair + 1), pairs, case.model.device
    )
    speeds: tuple[list[float], list[float]] = ([], [])
    for record in records:
        rollout, answers = record.results
        counts = int(rollout.mask.sum()), count_tokens(answers)
        if counts[0] != counts[1]:
            fail(f"ours sampled {counts[0]} tokens and vLLM {counts[1]}: not the same work")
        for side in (0, 1):
            speeds[side].append(counts[side] / record.seconds[side])
    ratio = Spread.of([record.seconds[1] / record.seconds[0] for record in records])
    processor = Spread.of([record.processor[1] / record.processor[0] for record in records])
    found = {"ours": Spread.of(speeds[0]).median, "vllm": Spread.of(speeds[1]).median}
    print(
        f"ours {found['ours']:,.0f} tokens/s, vLLM {found['vllm']:,.0f}: ratio {ratio}, of processor time {processor}, "
        f"{pairs} pairs",
        flush=True,
    )
    return {
        "ratio": ratio.median,
        "ratio_spread": ratio,
        "ratio_processor": processor.median,
        "ratio_processor_spread": processor,
        "tokens_per_s": found,
    }


def skip_speedups(case: Case, sample: Sampler, pairs: int) -> dict[str, dict[str, Any]]:
    """For each number of layers left out of vLLM: the speed-up, the ideal one, their ratio, and the exactness."""
    num_layers, found = case.model.config.num_hidden_layers, {}
    for skip in case.skips:
        draws, records = nested_pairs(case, skip, pairs, sample)
        error = logp_error(case, draws[pairs - 1], records[-1].results[1])
        speedup = Spread.of([record.seconds[0] / record.seconds[1] for record in records])
        processor = Spread.of([record.processor[0] / record.processor[1] for record in records])
        ideal = ideal_speedup(case.model, len(draws[0]), case.prompt_ids.shape[1] + case.new_tokens / 2)
        found[str(len(draws[0]))] = {
            "speedup": speedup,
            "speedup_processor": processor,
            "ideal": ideal,
            "efficiency": speedup.median / ideal,
            "efficiency_processor": processor.median / ideal,
            "logp_error": error,
        }
        print(
            f"vLLM without {len(draws[0])} of {num_layers} layers: {speedup} times the speed, of processor time "
            f"{processor}, ideal {ideal:.3f}; largest error of a log-probability {error:.1e}",
            flush=True,
        )
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """This benchmark's own options."""
    parser.add_argument("--pairs", type=int, metavar="N", help="pairs per comparison (default 7, quick 2)")


def main() -> None:
    """Compare the engines, then vLLM with itself, and print the JSON line."""
    options = parse_options(__doc__, add_options)
    if not installed():
        fail("vLLM is not installed; `make test-vllm` makes an environment that has it, .venv-vllm", 2)
    prompts, group, prompt_tokens, new_tokens = (2, 2, 8, 4) if options.quick else (8, 8, 60, 48)
    pairs = options.pairs or (2 if options.quick else 7)
    model = random_model(NAME, options)
    model = model if options.device == "cuda" else model.float()  # so that an error is not only rounding
    case = Case(NAME, model, *random_prompts(model, prompts, prompt_tokens), group, new_tokens, 1.0, (), 0, SKIPS)
    with vllm_engine(case, options.threads) as sample:
        compared, skips = compare(case, sample, pairs), skip_speedups(case, sample, pairs)
    names = ("efficiency", "efficiency_processor", "speedup", "speedup_processor", "ideal")
    by_key = {f"skip_{name}": {skip: entry[name] for skip, entry in skips.items()} for name in names}
    errors = {skip: entry["logp_error"] for skip, entry in skips.items()}
    dtype = str(model.dtype).removeprefix("torch.")
    versions = {"vllm": vllm_version(), "dtype": dtype, "pairs": pairs}
    print_result("vllm_rollout", options, compared | by_key | {"logp_error": errors} | versions)


if __name__ == "__main__":
    main()
