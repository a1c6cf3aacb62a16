"""Rollout throughput of nested views against the full model: paired, interleaved, and on equal work.

Every completion has the same number of tokens (no end token stops it), so that a pair differs only in the layers. The
order within a pair alternates, so that a drift of the machine's speed does not favour one side. Skip 0 is measured in
the same way, full model against full model: it shows the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from nested_reft.config.records.throughput import Pair, ThroughputRecord
from nested_reft.config.throughput import ThroughputSettings
from nested_reft.core.layer_selection import draw_skipped_layers
from nested_reft.core.layers import decoder_layers
from nested_reft.data.records import Problem
from nested_reft.rollouts.agreement import check_policy_skip
from nested_reft.rollouts.lengths import fitting_prompts
from nested_reft.rollouts.policy import Policy
from nested_reft.rollouts.samplers import TorchSampler
from nested_reft.runtime.seeding import derive_seed
from nested_reft.runtime.timing import now


def decode_costs(model: PreTrainedModel, context: float) -> tuple[float, float]:
    """FLOPs to decode one token at a mean `context` length: of one (average) layer, and of all that is not a layer.

    A matrix of n entries costs 2 n; attention over the context 4 x heads x head width x context. What is not a layer
    is the LM head; the embedding is a look-up and costs nothing. For dense models only: all experts of a mixture would
    be counted.
    """
    config, layers = model.config, decoder_layers(model)
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    matrices = sum(parameter.numel() for parameter in layers.parameters() if parameter.ndim == 2) / len(layers)
    head = model.get_output_embeddings().weight.numel()
    return 2 * matrices + 4 * heads * head_width * context, 2.0 * head


def ideal_speedup(model: PreTrainedModel, num_skipped: int, context: float) -> float:
    """The cost of all layers and the LM head over that of what is left without `num_skipped` layers."""
    layer, rest = decode_costs(model, context)
    num_layers = len(decoder_layers(model))
    return (num_layers * layer + rest) / ((num_layers - num_skipped) * layer + rest)


def measure_throughput(settings: ThroughputSettings, policy: Policy, problems: Sequence[Problem]) -> ThroughputRecord:
    """The throughput record of one size and skip: tokens per second of every pair after the warm-up pairs."""
    options, model = settings.throughput, policy.model
    prompts = fitting_prompts(policy, problems[: options.problems], settings.prompt, settings, "throughput.new_tokens")
    check_policy_skip(policy, settings.skip, settings.border)
    prompt_ids, prompt_mask = policy.batch(prompts)
    num_layers = len(decoder_layers(model))
    sampler = TorchSampler(replace(policy, end_ids=()), settings.rollout_precision)

    def tokens_per_s(skipped: Sequence[int], pair: int) -> float:
        started = now(model.device)
        rollout = sampler.sample(
            skipped,
            prompt_ids,
            prompt_mask,
            settings.sampling,
            group_size=options.completions_per_problem,
            max_new_tokens=settings.max_new_tokens,
            seed=derive_seed("throughput", options.seed, pair),
        )
        return rollout.tokens.numel() / (now(model.device) - started)

    pairs: list[Pair] = []
    num_skipped = 0
    for pair in range(options.warmup_pairs + options.pairs):
        layer_generator = torch.Generator().manual_seed(derive_seed("throughput-layers", options.seed, pair))
        skipped = draw_skipped_layers(num_layers, settings.skip, settings.border, layer_generator)
        num_skipped = len(skipped)
        if pair % 2:
            nested, baseline = tokens_per_s(skipped, pair), tokens_per_s((), pair)
        else:
            baseline, nested = tokens_per_s((), pair), tokens_per_s(skipped, pair)
        if pair >= options.warmup_pairs:
            pairs.append(Pair(baseline_tokens_per_s=baseline, nested_tokens_per_s=nested, skipped_layers=list(skipped)))
    context = prompt_mask.sum(-1).double().mean().item() + settings.max_new_tokens / 2
    return ThroughputRecord(
        size=settings.size,
        skip=settings.skip,
        num_layers=num_layers,
        num_skipped=num_skipped,
        ideal_speedup=ideal_speedup(model, num_skipped, context),
        pairs=pairs,
        hardware=_hardware(model.device),
    )


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU, {torch.get_num_threads()} thread(s)"
