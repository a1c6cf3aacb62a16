"""Shapes and costs of the plan: against published sizes, torch's own count of FLOPs, and numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2ForCausalLM
from workflow_harness import ROOT

from nested_reft.config.experiment import load_config
from nested_reft.config.training import Lora, Training
from nested_reft.data.records import DataError
from nested_reft.planning.costs import Assumptions, Batch, Costs, Shape, model_shape

PAPER = load_config(ROOT / "config/paper.yaml")
INFINITE = Assumptions(teraflops=1e99, gigabytes_per_s=1e99, layer_us=0, prompt_tokens=1, startup=0)
TRAINING = Training(
    steps=1, problems_per_step=3, completions_per_problem=2, max_new_tokens=7, learning_rate=1,
    problems_per_micro_batch=2,
)  # fmt: skip
BATCH = Batch(prompts=3, prompt_tokens=5, group=2, new_tokens=4, max_new_tokens=7)


def small_config(layers: int = 2) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True, attn_implementation="eager",
    )  # fmt: skip


@pytest.fixture
def shape() -> Shape:
    """A layer has the matrices q 8 x 8, k and v 8 x 4, o 8 x 8, three of 8 x 12: 480 entries; the head has 88."""
    with torch.device("meta"):
        return Shape(Qwen2ForCausalLM(small_config()))


@pytest.mark.parametrize(("size", "parameters"), [("1.5b", 1_543_714_304), ("7b", 7_615_616_512)])
def test_the_models_of_the_paper_have_their_published_sizes(size: str, parameters: int, tmp_path: Path) -> None:
    shape = model_shape(PAPER, size, tmp_path)
    assert shape is not None
    assert (shape.parameters, shape.layers) == (parameters, 28)


def test_a_fetched_model_is_read_and_held_against_the_config_and_without_both_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "models/7b").mkdir(parents=True)
    small_config(layers=3).save_pretrained(tmp_path / "models/7b")
    bare = PAPER.model_copy(update={"sizes": {"7b": PAPER.sizes["7b"].model_copy(update={"shape": None})}})
    shape = model_shape(bare, "7b", tmp_path)
    assert shape is not None
    assert (shape.layers, shape.vocabulary) == (3, 11)
    assert model_shape(bare, "7b", tmp_path / "elsewhere") is None
    with pytest.raises(DataError, match=r"sizes\.7b\.shape\.width: is 3584, but hidden_size of the fetched model is 8"):
        model_shape(PAPER, "7b", tmp_path)


def test_the_shape_is_no_part_of_what_a_result_depends_on() -> None:
    assert "shape" not in json.loads(PAPER.canonical_json())["sizes"]["7b"]
    assert "resources" not in json.loads(PAPER.canonical_json())


def test_entries_are_those_of_the_matrices(shape: Shape) -> None:
    assert shape.layer_matrices == 480
    assert shape.weights_read() == 2 * 480 + 88
    assert shape.weights_read(skipped=1) == 480 + 88
    assert (shape.query_width, shape.key_value_width) == (8, 4)


def test_the_flops_of_a_forward_pass_are_those_that_torch_counts(shape: Shape) -> None:
    model = Qwen2ForCausalLM(small_config())
    with FlopCounterMode(display=False) as counter:
        model(torch.randint(0, 11, (1, 6)))
    assert counter.get_total_flops() == shape.flops(6, 6, 6)  # eager attention sees all 6 keys from each token


def test_a_rollout_by_hand(shape: Shape) -> None:
    """Layer: 2 * 480 FLOPs per token and 4 * 8 per token of context; head 2 * 88 per row. Keys, values: 8 per layer.

    Prefill: 15 tokens at context 3, 3 rows, 1 pass. Decode: 6 rows x 3 tokens at context 5 + 2, 6 passes, each of which
    reads 15 prompt tokens; the completions' own: 18 tokens x 2.
    """
    work = Costs(shape, INFINITE, value_bytes=2).rollout(BATCH)
    layer = 15 * (960 + 32 * 3) + 18 * (960 + 32 * 7)
    assert work.flops == 2 * layer + 176 * (3 + 18)
    assert work.bytes == 2 * ((1048 + 15 * 16) + (6 * 1048 + (6 * 15 + 36) * 16))
    nested = Costs(shape, INFINITE, value_bytes=2).rollout(BATCH, skipped=1)
    assert nested.flops == layer + 176 * (3 + 18)


@pytest.mark.parametrize("limit", ["teraflops", "gigabytes_per_s", "layer_us"])
def test_a_phase_takes_as_long_as_what_limits_it(shape: Shape, limit: str) -> None:
    work = Costs(shape, INFINITE.model_copy(update={limit: 10.0}), value_bytes=4).rollout(BATCH)
    # 1 pass of 2 layers for the prompts, 6 for the completions
    expected = {"teraflops": work.flops / 1e13, "gigabytes_per_s": work.bytes / 1e10, "layer_us": 1e-5 * 2 * (1 + 6)}
    assert work.seconds == pytest.approx(expected[limit])


def test_an_update_is_three_forward_passes_a_micro_batch_and_the_optimizer(shape: Shape) -> None:
    costs = Costs(shape, INFINITE, value_bytes=2)
    forward = costs.forward(BATCH)
    assert forward.flops == shape.flops(15, 3, 0) + shape.flops(24, 7, 24)
    update = costs.update(BATCH, TRAINING)
    assert update.flops == 3 * forward.flops
    assert update.bytes == 3 * 2 * forward.bytes + 40 * shape.parameters  # two micro-batches; ten float32 a parameter
    twice = costs.update(BATCH, TRAINING.model_copy(update={"updates_per_rollout": 2, "kl_coefficient": 0.1}))
    assert twice.flops == 2 * update.flops + forward.flops
    again = costs.update(BATCH, TRAINING.model_copy(update={"gradient_checkpointing": True}))
    assert again.flops == 4 * forward.flops
    adapters = costs.update(BATCH, TRAINING.model_copy(update={"lora": Lora(rank=2)}))
    assert adapters.flops == 2 * forward.flops
    # Rows and columns of a layer's matrices: 16, 12, 12, 16 and three of 20; of two layers, twice by rank 2.
    assert adapters.bytes == 2 * 2 * forward.bytes + 40 * (2 * 2 * 116)


def test_gradients_are_a_rollout_and_one_backward_pass_an_estimate(shape: Shape) -> None:
    costs = Costs(shape, INFINITE, value_bytes=2)
    for checkpointing, passes in ((False, 2), (True, 3)):
        work = costs.gradients(BATCH, 1, 4, checkpointing)
        assert work.flops == costs.rollout(BATCH, 1).flops + (1 + passes * 4) * costs.forward(BATCH).flops
