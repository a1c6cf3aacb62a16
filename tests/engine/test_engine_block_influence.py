"""Block influence against a loop over the tokens, and what it refuses."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from tiny_models import KINDS, in_double, padded_prompts, tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from nested_reft.core.layer_selection import choose_skipped_layers
from nested_reft.core.layers import decoder_layers
from nested_reft.engine.layer_influence import layer_influence
from nested_reft.engine.tensors import position_ids


def by_loops(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> list[float]:
    """The definition, token by token, from the recorded hidden states; without the final norm the last is raw too."""
    raw = copy.deepcopy(model)
    raw.model.norm = nn.Identity()
    with torch.no_grad():
        states = raw(
            input_ids=ids, attention_mask=mask, position_ids=position_ids(mask), output_hidden_states=True
        ).hidden_states  # fmt: skip
    influences = []
    for before, after in pairwise(states):
        cosines = []
        for row, column in mask.nonzero().tolist():
            x, y = before[row, column].double(), after[row, column].double()
            cosines.append((x @ y / (x.norm() * y.norm())).item())
        influences.append(1 - sum(cosines) / len(cosines))
    return influences


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_the_influence_is_that_of_the_definition(kind: str, dtype: torch.dtype) -> None:
    model, (ids, mask) = tiny_model(kind).to(dtype), padded_prompts((7, 3, 5))
    found = layer_influence(model, ids, mask)
    assert (found.shape, found.dtype, found.device.type) == ((5,), torch.float64, "cpu")
    assert found.tolist() == pytest.approx(by_loops(model, ids, mask), abs=1e-6)
    assert found.min() > 1e-3, "every layer of these models does something"


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_influence(kind: str) -> None:
    model, (ids, mask) = tiny_model(kind), padded_prompts((7, 3, 5))
    more = [nn.functional.pad(tensor, (4, 0)) for tensor in (ids, mask)]
    torch.testing.assert_close(layer_influence(model, *more), layer_influence(model, ids, mask), rtol=0, atol=1e-6)


def test_a_long_prompt_weighs_more_than_a_short_one() -> None:
    model, (ids, mask) = in_double(tiny_model()), padded_prompts((6, 2))
    long, short = (layer_influence(model, ids[row : row + 1], mask[row : row + 1]) for row in (0, 1))
    torch.testing.assert_close(layer_influence(model, ids, mask), (6 * long + 2 * short) / 8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_writes_nothing_has_no_influence_and_is_left_out_first(kind: str) -> None:
    model, (ids, mask) = tiny_model(kind), padded_prompts((7, 3, 5))
    with torch.no_grad():
        for name, parameter in decoder_layers(model)[3].named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.zero_()
    found = layer_influence(model, ids, mask)
    assert found[3].item() == pytest.approx(0, abs=1e-12)
    assert choose_skipped_layers("influence", 5, 20, 1, batch_seed=1, run_seed=2, influence=lambda: found) == (3,)


def test_a_layer_that_turns_the_stream_round_has_influence_two() -> None:
    model, (ids, mask) = tiny_model(), padded_prompts((4,))
    decoder_layers(model)[2].register_forward_hook(lambda module, args, output: -3 * args[0])
    assert layer_influence(model, ids, mask)[2].item() == pytest.approx(2, abs=1e-12)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_on_the_model(fails: bool) -> None:
    model, (ids, mask) = tiny_model().train(), padded_prompts((7, 3))
    modules, state = list(model.modules()), [sorted(vars(module)) for module in model.modules()]
    if fails:
        with pytest.raises(IndexError):
            layer_influence(model, ids + 1000, mask)
    else:
        assert not layer_influence(model, ids, mask).requires_grad
    assert all(now is then for now, then in zip(model.modules(), modules, strict=True))
    assert [sorted(vars(module)) for module in model.modules()] == state
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert all(module.training for module in modules)


def test_dropout_is_off_and_the_head_does_not_run() -> None:
    model, (ids, mask) = tiny_model(), padded_prompts((7, 3))
    expected, ran = layer_influence(model, ids, mask), []
    model.lm_head.register_forward_hook(lambda *_: ran.append("head"))
    model.model.register_forward_hook(lambda *_: ran.append("body"))
    for layer in decoder_layers(model):
        layer.self_attn.attention_dropout = 0.5
    model.train()
    assert torch.equal(layer_influence(model, ids, mask), expected)
    assert ran == ["body"], "one forward, without the head"


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), r"must both be \(P, S\), got \(2, 3\) and \(2, 4\)"),
        (torch.ones(3), torch.ones(3), r"must both be \(P, S\), got \(3,\) and \(3,\)"),
        (torch.ones(2, 3), torch.zeros(2, 3), "attention_mask has no real token"),
    ],
)
def test_prompts_that_cannot_be_read_are_named(ids: Tensor, mask: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_influence(tiny_model(), ids.long(), mask.long())
