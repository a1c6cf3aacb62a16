"""Throughput: the ideal by hand, the pairs, and what is timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tiny_evaluation import PROMPT, tiny_policy, tiny_problems
from transformers import LlamaConfig, LlamaForCausalLM

from nested_reft.config.throughput import ThroughputSettings
from nested_reft.evaluation import throughput as module
from nested_reft.evaluation.throughput import decode_costs, ideal_speedup, measure_throughput
from nested_reft.rollouts import samplers as sampler

# Attention of the tiny model (width 16, 2 heads of 8, 1 key-value head): q and o are 16 x 16, k and v 16 x 8;
# the feed-forward has three matrices of 16 x 32. Biases and norms are vectors and not counted.
MATRICES = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 32


def settings(skip: int, **options: Any) -> ThroughputSettings:
    throughput = {"problems": 3, "completions_per_problem": 2, "new_tokens": 4, "pairs": 4, "warmup_pairs": 2} | options
    return ThroughputSettings.model_validate(
        {
            "size": "tiny", "skip": skip, "throughput": throughput, "prompt": PROMPT, "border": 1, "sampling": {},
            "max_new_tokens": throughput["new_tokens"], "max_prompt_tokens": 64, "dtype": "float32", "device": "cpu",
        }
    )  # fmt: skip


def test_the_costs_of_a_token_by_hand() -> None:
    policy = tiny_policy()
    layer, rest = decode_costs(policy.model, context=10)
    assert MATRICES == 2304
    assert layer == 2 * 2304 + 4 * 2 * 8 * 10
    assert rest == 2 * len(policy.tokenizer) * 16


def test_an_untied_head_is_counted_once_and_the_embedding_not_at_all() -> None:
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            vocab_size=50, tie_word_embeddings=False,
        )
    )  # fmt: skip
    assert decode_costs(model, context=0) == (2 * MATRICES, 2 * 50 * 16)


def test_the_ideal_speedup_by_hand() -> None:
    policy = tiny_policy()
    layer, rest = 2 * 2304 + 4 * 2 * 8 * 10, 2 * len(policy.tokenizer) * 16
    for skipped in range(6):
        expected = (6 * layer + rest) / ((6 - skipped) * layer + rest)
        assert ideal_speedup(policy.model, skipped, 10) == pytest.approx(expected, rel=1e-12)
    assert ideal_speedup(policy.model, 0, 10) == 1
    assert ideal_speedup(policy.model, 3, 10) < 2, "the head bounds it"
    # the longer the context, the more of the cost is in the layers
    assert ideal_speedup(policy.model, 3, 10_000) == pytest.approx(2, rel=0.01)


def test_the_record_of_a_nested_setting() -> None:
    policy, problems = tiny_policy(), tiny_problems(5)
    record = measure_throughput(settings(34), policy, problems).model_dump()
    assert (record["size"], record["skip"], record["num_layers"], record["num_skipped"]) == ("tiny", 34, 6, 2)
    assert len(record["pairs"]) == 4
    for pair in record["pairs"]:
        assert pair["baseline_tokens_per_s"] > 0
        assert pair["nested_tokens_per_s"] > 0
        assert len(pair["skipped_layers"]) == 2
        assert set(pair["skipped_layers"]) <= {1, 2, 3, 4}
    assert len({tuple(pair["skipped_layers"]) for pair in record["pairs"]}) > 1
    texts = [problem.question + PROMPT.suffix for problem in problems[:3]]
    context = sum(len(text.split()) for text in texts) / 3 + 4 / 2
    assert record["ideal_speedup"] == pytest.approx(ideal_speedup(policy.model, 2, context), rel=1e-12)


def test_skip_zero_is_the_full_model_against_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    views: list[tuple[int, ...]] = []
    plain = sampler.nested_view

    def spy(model: Any, skipped: Sequence[int]) -> Any:
        views.append(tuple(skipped))
        return plain(model, skipped)

    monkeypatch.setattr(sampler, "nested_view", spy)
    record = measure_throughput(settings(0), tiny_policy(), tiny_problems(3)).model_dump()
    assert record["ideal_speedup"] == 1
    assert record["num_skipped"] == 0
    assert [pair["skipped_layers"] for pair in record["pairs"]] == [[]] * 4
    assert views == [()] * 12  # (2 warm-up pairs + 4 pairs) x 2


def test_a_pair_does_equal_work_in_alternating_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that each rollout moves on by the number of its model's layers shows who was timed, and when."""
    now, timed = [0.0], []
    plain = sampler.sample_completions

    def sample(model: Any, *arguments: Any, **options: Any) -> Any:
        rollout = plain(model, *arguments, **options)
        now[0] += model.config.num_hidden_layers
        timed.append((model.config.num_hidden_layers, rollout))
        return rollout

    monkeypatch.setattr(sampler, "sample_completions", sample)
    monkeypatch.setattr(module, "now", lambda device: now[0])
    record = measure_throughput(settings(34), tiny_policy(), tiny_problems(3)).model_dump()
    assert [layers for layers, _ in timed] == [6, 4, 4, 6] * 3
    for _, rollout in timed:
        assert rollout.tokens.shape == (3 * 2, 4)
        assert rollout.mask.all(), "no end token stops a completion"
    for pair in record["pairs"]:
        assert pair["baseline_tokens_per_s"] == pytest.approx(24 / 6)
        assert pair["nested_tokens_per_s"] == pytest.approx(24 / 4)


def test_both_sides_of_a_pair_share_their_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens: list[torch.Tensor] = []
    plain = sampler.sample_completions

    def sample(*arguments: Any, **options: Any) -> Any:
        rollout = plain(*arguments, **options)
        tokens.append(rollout.tokens)
        return rollout

    monkeypatch.setattr(sampler, "sample_completions", sample)
    measure_throughput(settings(0), tiny_policy(), tiny_problems(3))
    for first, second in zip(tokens[::2], tokens[1::2], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(tokens[0], tokens[2])
