"""Ablation influence against models rebuilt without a layer, row by row and token by token; its parts; its refusals."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tiny_models import KINDS, in_double, padded_prompts, rebuilt_without, tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from nested_reft.core.layers import decoder_layers
from nested_reft.engine import layer_influence
from nested_reft.engine.layer_influence import ablation_influence, influence_of


def by_loops(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> list[float]:
    """The definition: one unpadded row at a time, the sum over the vocabulary in Python."""
    found = []
    for layer in range(len(decoder_layers(model))):
        without, divergences = rebuilt_without(model, (layer,)), []
        for row, real in zip(ids, mask.bool(), strict=True):
            text = row[real].unsqueeze(0)
            with torch.no_grad():
                pi, b = (torch.softmax(of(input_ids=text).logits[0].double(), -1) for of in (model, without))
            for of_target, of_view in zip(pi.tolist(), b.tolist(), strict=True):
                divergences.append(sum(q * math.log(q / p) for p, q in zip(of_target, of_view, strict=True)))
        found.append(sum(divergences) / len(divergences))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_mean_kl_of_leaving_a_layer_out(kind: str) -> None:
    model, (ids, mask) = tiny_model(kind), padded_prompts((7, 3, 5))
    found = ablation_influence(model, ids, mask)
    assert (found.shape, found.dtype, found.device.type) == ((5,), torch.float64, "cpu")
    assert found.tolist() == pytest.approx(by_loops(model, ids, mask), rel=1e-4)
    assert found.min() > 1e-3, "every layer of these models does something"


class Steps(nn.Module):
    """A layer that sets the stream to its value."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, hidden_states: Tensor, **_: object) -> Tensor:
        return torch.full_like(hidden_states, self.value)


class Head(nn.Module):
    """(0.9, 0.1) for a stream of 1, (0.5, 0.5) for a stream of 2."""

    def forward(self, hidden: Tensor) -> Tensor:
        first = (2 - hidden[..., :1]) * math.log(9.0)
        return torch.cat((first, torch.zeros_like(first)), dim=-1)


def test_the_direction_is_from_the_view_to_the_whole_model() -> None:
    """By hand: without layer 1 the stream is 1 and b = (0.9, 0.1); with it, pi = (0.5, 0.5), also without layer 0."""
    model, (ids, mask) = in_double(tiny_model(layers=2, vocab=2)), (torch.ones(1, 1).long(), torch.ones(1, 1))
    model.model.layers = nn.ModuleList([Steps(1.0), Steps(2.0)])
    model.model.norm = nn.Identity()
    model.lm_head = Head()
    found = ablation_influence(model, ids, mask)
    assert found.tolist() == pytest.approx([0.0, 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)])


@pytest.mark.parametrize("positions", [1, 2, 3, 7, 8, 14, 21, 1000])
def test_the_parts_change_nothing(positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one position at a time to all at once; a row of 7 tokens is longer than the smaller parts."""
    model, (ids, mask) = in_double(tiny_model()), padded_prompts((7, 3, 5, 1))
    expected, sizes = ablation_influence(model, ids, mask), []
    soft = torch.log_softmax

    def counted(logits: Tensor, dim: int) -> Tensor:
        sizes.append(len(logits))
        return soft(logits, dim)

    monkeypatch.setattr(layer_influence, "LOGITS", positions * 23)
    monkeypatch.setattr(torch, "log_softmax", counted)
    torch.testing.assert_close(ablation_influence(model, ids, mask), expected, rtol=1e-10, atol=0)
    assert max(sizes) <= positions
    assert sum(sizes) == 6 * 16, "each real token once, by the whole model and by five views"


def test_padding_and_empty_rows_change_nothing() -> None:
    model, (ids, mask) = in_double(tiny_model()), padded_prompts((7, 3, 5))
    more = [nn.functional.pad(tensor, (4, 0, 0, 1)) for tensor in (ids, mask)]
    torch.testing.assert_close(ablation_influence(model, *more), ablation_influence(model, ids, mask))


def test_a_long_text_weighs_more_than_a_short_one() -> None:
    model, (ids, mask) = in_double(tiny_model()), padded_prompts((6, 2))
    long, short = (ablation_influence(model, ids[row : row + 1], mask[row : row + 1]) for row in (0, 1))
    torch.testing.assert_close(ablation_influence(model, ids, mask), (6 * long + 2 * short) / 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_that_writes_nothing_has_no_influence(dtype: torch.dtype) -> None:
    model, (ids, mask) = tiny_model().to(dtype), padded_prompts((7, 3, 5))
    with torch.no_grad():
        for name, parameter in decoder_layers(model)[3].named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.zero_()
    found = ablation_influence(model, ids, mask)
    assert found[3].item() == 0
    assert sorted(found.tolist())[1] > 1e-3


def test_nothing_is_left_on_the_model_and_dropout_is_off() -> None:
    model, (ids, mask) = tiny_model(), padded_prompts((7, 3))
    expected = ablation_influence(model, ids, mask)
    for layer in decoder_layers(model):
        layer.self_attn.attention_dropout = 0.5
    model.train()
    before = copy.deepcopy(model.state_dict())
    found = ablation_influence(model, ids, mask)
    assert torch.equal(found, expected)
    assert not found.requires_grad
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert len(decoder_layers(model)) == model.config.num_hidden_layers == 5
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), r"must both be \(P, S\), got \(2, 3\) and \(2, 4\)"),
        (torch.ones(3), torch.ones(3), r"must both be \(P, S\), got \(3,\) and \(3,\)"),
        (torch.ones(2, 3), torch.zeros(2, 3), "attention_mask has no real token"),
    ],
)
def test_a_text_that_cannot_be_read_is_named(ids: Tensor, mask: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ablation_influence(tiny_model(), ids.long(), mask.long())


def test_a_model_of_one_layer_has_none_to_leave_out() -> None:
    with pytest.raises(ValueError, match="at least one must be left"):
        ablation_influence(tiny_model(layers=1), *padded_prompts((3,)))


def test_each_strategy_gets_its_own_measure() -> None:
    model, (ids, mask) = tiny_model(), padded_prompts((7, 3, 5))
    measured = torch.arange(5.0)
    for strategy in ("least", "least_half"):
        read = influence_of(strategy, model, ids, mask, measured)
        assert read is not None
        assert read() is measured
        assert influence_of(strategy, model, ids, mask, None) is None
    block = influence_of("influence", model, ids, mask, measured)
    assert block is not None
    assert torch.equal(block(), layer_influence.layer_influence(model, ids, mask))
    assert influence_of("uniform", model, ids, mask, measured) is None
