"""The parts of the benchmarks that could be wrong without anyone seeing it: pairs, counts, what is compared."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator

import common
import gpu
import grpo_step
import limit
import pytest
import rollout
import rollout_sides
import tidy
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2ForCausalLM

CPU = torch.device("cpu")


def tiny_model(attention: str = "eager") -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
            vocab_size=50, tie_word_embeddings=True, attn_implementation=attention, eos_token_id=None,
            bos_token_id=None, pad_token_id=None,
        )
    ).eval()  # fmt: skip


def tiny_case(end_ids: tuple[int, ...] = ()) -> rollout_sides.Case:
    prompts = torch.tensor([[0, 5, 6], [7, 8, 9]])
    return rollout_sides.Case(
        "tiny", tiny_model("sdpa"), prompts, torch.tensor([[0, 1, 1], [1, 1, 1]]).bool(), 4, 6, 1.0, end_ids, 0, (34,)
    )


def test_pairs_alternate_their_order_and_leave_the_warm_up_out() -> None:
    calls: list[tuple[str, int]] = []
    pairs = common.timed_pairs(lambda pair: calls.append(("a", pair)), lambda pair: calls.append(("b", pair)), 2, CPU)
    assert calls == [("b", -1), ("a", -1), ("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    assert len(pairs) == 2


def test_a_pair_keeps_the_sides_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(common, "now", lambda device: clock[0])

    def work(seconds: float) -> float:
        clock[0] += seconds
        return seconds

    for pair in common.timed_pairs(lambda pair: work(2.0), lambda pair: work(3.0), 3, CPU):
        assert pair.seconds == (2.0, 3.0)
        assert pair.results == (2.0, 3.0)


def test_their_tokens_go_up_to_the_end_token() -> None:
    case = tiny_case(end_ids=(2,))
    generated = torch.tensor([[0, 5, 6, 3, 2, 0, 0], [7, 8, 9, 3, 4, 5, 6], [7, 8, 9, 2, 2, 2, 2]])
    assert rollout_sides.their_tokens(case, generated) == [[3, 2], [3, 4, 5, 6], [2]]


def test_both_sides_write_the_same_greedy_tokens_and_as_many_sampled_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    case = tiny_case()
    assert rollout.greedy_identity(case) == 1.0
    generated = rollout_sides.theirs(case, 0)
    assert [len(row) for row in rollout_sides.their_tokens(case, generated)] == [6] * 8
    assert rollout_sides.ours(case, case.view(()), 0).mask.sum(-1).tolist() == [6] * 8
    other = tiny_model("sdpa")
    torch.nn.init.normal_(other.model.layers[0].mlp.down_proj.weight, std=5.0)
    monkeypatch.setattr(rollout_sides.Case, "view", lambda case, skipped: other)
    assert rollout.greedy_identity(case) < 1.0


def test_continuous_batching_counts_every_completion() -> None:
    case = tiny_case()
    with rollout_sides.continuous_batching(case) as run:
        assert run() == 2 * 4 * 6
        assert run() == 2 * 4 * 6


def test_lengths_that_differ_by_more_than_chance_end_the_program() -> None:
    rollout.check_lengths("case", [5, 6, 7, 6], [6, 6, 7, 6])
    rollout.check_lengths("case", [6, 6], [6, 6])
    with pytest.raises(SystemExit):
        rollout.check_lengths("case", [5, 6, 7, 6] * 10, [9, 9, 8, 9] * 10)


def test_the_flops_are_those_that_torch_counts() -> None:
    """Of a forward pass with eager attention, which computes every pair of positions: the context is the length."""
    model, (rows, length) = tiny_model(), (3, 7)
    ids = torch.randint(50, (rows, length))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids, logits_to_keep=1, use_cache=False)
    work = limit.forward_work(model, rows * length, length, rows, 1, rows * length)
    assert work.flops == counter.get_total_flops()


def test_the_bytes_by_hand() -> None:
    # one layer: q, o 16 x 16, k, v 16 x 8, three of 16 x 32; head 16 x 50; 4 bytes a value
    model = tiny_model()
    entries, in_and_out = 2 * 256 + 2 * 128 + 3 * 512, 2 * 32 + 2 * 24 + 3 * 48
    values = 2 * (3 * entries + 800) + 10 * 3 * in_and_out + 5 * 66 + 3 * 2 * 8 * 100
    assert limit.forward_work(model, 10, 0, 5, passes=2, cached=100).bytes == 4 * values


def test_the_work_of_the_phases_adds_up() -> None:
    model, mask = tiny_model(), torch.tensor([[0, 1, 1], [1, 1, 1]]).bool()
    work = limit.phase_work(model, mask, 4, 6)
    assert work["update"].flops == pytest.approx(3 * (work["prefill"].flops + work["decode"].flops))
    assert work["update"].bytes < 3 * (work["prefill"].bytes + work["decode"].bytes), "it reads the weights once"
    longer = limit.phase_work(model, mask, 4, 7)
    assert longer["decode"].flops > work["decode"].flops
    assert longer["prefill"] == work["prefill"]


@pytest.mark.parametrize(
    ("flops", "moved", "bound"), [(80.0, 10.0, "compute"), (10.0, 80.0, "memory"), (40.0, 30.0, "overhead")]
)
def test_what_bounds_a_phase(flops: float, moved: float, bound: str) -> None:
    row = limit.rates(limit.Work(2 * flops, 2 * moved), limit.Work(100.0, 100.0), 2.0)
    assert row["bound"] == bound
    assert row["flops_share"] == pytest.approx(flops / 100)
    assert row["overhead"] == pytest.approx(1 - max(flops, moved) / 100)


def test_on_a_gpu_an_engine_that_is_missing_or_fails_has_a_row_for_each_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "installed", lambda: False)
    missing = list(gpu.vllm_rows("tiny", tiny_case(), gpu.EAGER, argparse.Namespace(threads=1, pairs=1)))

    def failing() -> Iterator[gpu.Row]:
        raise RuntimeError("no memory\nand more lines")
        yield

    failed = gpu.attempt(failing(), gpu.Row("tiny", "rollout", gpu.EAGER, 0))
    for rows, reason in ((missing, "vllm is not installed"), (failed, "RuntimeError: no memory")):
        assert [row.skip for row in rows] == [0, 5, 10, 15]
        assert {row.not_run for row in rows} == {reason}


def test_rewards_are_compared_over_the_last_steps() -> None:
    theirs = [[0.0] * 20 + [0.5, 0.6] * 5, [0.0] * 20 + [0.4, 0.5] * 5]
    compared = grpo_step.compare_rewards("tiny", theirs, [[value + 0.02 for value in seed] for seed in theirs])
    assert compared["difference"] == pytest.approx(0.02)
    assert not compared["alike"], "an exact difference, without any spread"
    mine = [[value + shift for value in seed] for seed, shift in zip(theirs, (0.1, -0.06), strict=True)]
    compared = grpo_step.compare_rewards("tiny", theirs, mine)
    assert compared["difference"] == pytest.approx(0.02)
    assert compared["standard_error"] == pytest.approx(0.16 / math.sqrt(2) / math.sqrt(2)), "over the two seeds"
    assert compared["alike"]
    assert len(compared["trl"]) == len(compared["ours"]) == 30


def test_the_table_has_a_row_for_each_fact() -> None:
    line = json.dumps(
        {"benchmark": "rollout", "ratio": {"small": 2.0}, "ratio_spread": {"small": [2.0, 1.9, 2.1]}, "threads": 1}
    )
    found = [(row["benchmark"], row["key"], row["value"], row["threads"]) for row in tidy.rows([line])]
    assert found == [
        ("rollout", "ratio/small", 2.0, 1),
        ("rollout", "ratio_spread/small/median", 2.0, 1),
        ("rollout", "ratio_spread/small/low", 1.9, 1),
        ("rollout", "ratio_spread/small/high", 2.1, 1),
    ]
