"""The layers drawn, and the nested view: the target's own tensors, without the skipped layers, and nothing else.

What must hold for each architecture is in test_core_architectures.py.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
import torch
from scipy.stats import chisquare
from tiny_models import random_tokens, rebuilt_without, tiny_model
from torch import nn
from transformers import PreTrainedModel

from nested_reft.core.layer_selection import count_and_eligible, draw_skipped_layers
from nested_reft.core.layers import decoder_layers, nested_view


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


# --- the draw


@pytest.mark.parametrize(
    ("num_layers", "percent", "count"),
    [(8, 0, 0), (8, 12, 1), (8, 25, 2), (8, 38, 3), (28, 5, 1), (28, 10, 3), (28, 15, 4), (6, 17, 1), (8, 6, 0)],
)
def test_the_count_is_the_rounded_share(num_layers: int, percent: int, count: int) -> None:
    drawn = draw_skipped_layers(num_layers, percent, 1, seeded())
    assert len(drawn) == count
    assert list(drawn) == sorted(set(drawn))


@pytest.mark.parametrize(("border", "eligible"), [(0, set(range(8))), (1, set(range(1, 7))), (2, {2, 3, 4, 5})])
def test_every_layer_within_the_borders_is_drawn_and_no_other(border: int, eligible: set[int]) -> None:
    generator = seeded()
    drawn = {layer for _ in range(200) for layer in draw_skipped_layers(8, 25, border, generator)}
    assert drawn == eligible


def test_a_border_that_leaves_exactly_enough_layers_leaves_no_choice() -> None:
    assert draw_skipped_layers(8, 25, 3, seeded()) == (3, 4)


def test_every_set_of_layers_is_equally_likely() -> None:
    generator = seeded(5)
    counts = Counter(draw_skipped_layers(6, 33, 1, generator) for _ in range(6000))
    sets = list(combinations(range(1, 5), 2))
    assert set(counts) == set(sets)
    assert chisquare([counts[layers] for layers in sets]).pvalue > 1e-3


def test_the_generator_alone_decides() -> None:
    torch.manual_seed(1)
    first = [draw_skipped_layers(28, 15, 1, generator) for generator in [seeded(7)] for _ in range(5)]
    torch.manual_seed(2)
    again = [draw_skipped_layers(28, 15, 1, generator) for generator in [seeded(7)] for _ in range(5)]
    other = [draw_skipped_layers(28, 15, 1, generator) for generator in [seeded(8)] for _ in range(5)]
    assert first == again
    assert first != other
    assert len(set(first)) > 1


def test_skip_zero_draws_nothing_from_the_generator() -> None:
    generator = seeded(3)
    before = generator.get_state()
    assert draw_skipped_layers(8, 0, 4, generator) == ()
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    ("arguments", "count", "eligible"),
    [((8, 25, 1), 2, [1, 2, 3, 4, 5, 6]), ((8, 25, 3), 2, [3, 4]), ((8, 0, 9), 0, []), ((3, 67, 0), 2, [0, 1, 2])],
)
def test_the_count_and_the_eligible_layers(arguments: tuple[int, int, int], count: int, eligible: list[int]) -> None:
    found, layers = count_and_eligible(*arguments)
    assert (found, list(layers)) == (count, eligible)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 100, 1), r"skip_percent must be in \[0, 100\), got 100"),
        ((8, -1, 1), r"skip_percent must be in \[0, 100\), got -1"),
        ((8, 25, -1), "border must not be negative, got -1"),
        ((8, 38, 3), "leaves out 3 of 8 layers, but border 3 leaves only 2"),
        ((8, 12, 9), "leaves out 1 of 8 layers, but border 9 leaves only 0"),
    ],
)
def test_a_draw_that_cannot_be_made_names_its_argument(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_skipped_layers(*arguments, seeded())
    with pytest.raises(ValueError, match=message):
        count_and_eligible(*arguments)


# --- the view


def test_two_views_of_one_target_do_not_disturb_each_other() -> None:
    model, tokens = tiny_model(), random_tokens(2, 9)
    first, second = nested_view(model, (1,)), nested_view(model, (2, 3))
    one, two = logits(first, tokens), logits(second, tokens)
    assert torch.equal(logits(first, tokens), one)
    assert torch.equal(logits(nested_view(model, (2, 3)), tokens), two)


def test_a_gradient_through_the_view_lands_on_the_target() -> None:
    model, tokens, skipped = tiny_model(), random_tokens(2, 9), (1, 3)
    rebuilt = rebuilt_without(model, skipped)
    nested_view(model, skipped)(input_ids=tokens, use_cache=False).logits.square().mean().backward()
    rebuilt(input_ids=tokens, use_cache=False).logits.square().mean().backward()
    for index, layer in enumerate(decoder_layers(model)):
        for name, parameter in layer.named_parameters():
            if index in skipped:
                assert parameter.grad is None, f"layer {index} {name}"
                continue
            expected = decoder_layers(rebuilt)[(0, 2, 4).index(index)].get_parameter(name).grad
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-6)
            assert parameter.grad.abs().max() > 0, f"layer {index} {name}"


def test_a_view_follows_the_target_s_updates() -> None:
    model, tokens, skipped = tiny_model(), random_tokens(2, 9), (1,)
    old_view = nested_view(model, skipped)
    before = logits(old_view, tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(input_ids=tokens, use_cache=False).logits.square().mean().backward()
    optimizer.step()
    expected = logits(rebuilt_without(model, skipped), tokens)
    assert (expected - before).abs().max() > 0.01
    for view in (old_view, nested_view(model, skipped)):
        torch.testing.assert_close(logits(view, tokens), expected, rtol=0, atol=1e-6)


def test_a_base_model_without_a_head_has_views_too() -> None:
    base, tokens = tiny_model().model, random_tokens(1, 6)
    view = nested_view(base, (2,))
    with torch.no_grad():
        expected = rebuilt_without(tiny_model(), (2,)).model(input_ids=tokens).last_hidden_state
        torch.testing.assert_close(view(input_ids=tokens).last_hidden_state, expected, rtol=0, atol=1e-6)
    assert len(base.layers) == 5


@pytest.mark.parametrize(
    ("skipped", "message"),
    [
        ((1, 5), r"skipped has \[5\], but the model's layers are 0 to 4"),
        ((-1,), r"skipped has \[-1\]"),
        (range(5), "skipped names every layer"),
    ],
)
def test_a_view_that_cannot_be_made_says_why(skipped: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nested_view(tiny_model(), skipped)


def test_an_architecture_without_layers_is_named() -> None:
    model = tiny_model()
    model.model.layers = nn.Sequential()
    with pytest.raises(ValueError, match="Qwen2ForCausalLM has no list of decoder layers"):
        nested_view(model, ())


def test_an_entry_of_the_config_that_is_not_one_per_layer_is_left_alone() -> None:
    model = tiny_model()
    model.config.mtp_layer_types, model.config.layers_of_interest = ["full_attention"], [4, 0]
    model.config.layer_rope_theta, model.config.stops = [1.0, 2.0, 3.0, 4.0, 5.0], [5, 6, 7, 8, 9]
    config = nested_view(model, (1, 3)).config
    assert (config.mtp_layer_types, config.layers_of_interest) == (["full_attention"], [4, 0])
    assert (config.layer_rope_theta, config.stops) == ([1.0, 3.0, 5.0], [5, 6, 7, 8, 9])


def test_the_mode_and_the_hooks_of_a_view_are_its_own() -> None:
    model, seen = tiny_model().train(), []
    model.model.norm.register_forward_hook(lambda *_: seen.append("target's"))
    view = nested_view(model, (1,)).eval()
    assert not any(module.training for module in view.modules())
    assert all(module.training for module in model.modules())
    for module in view.modules():
        module.register_forward_hook(lambda *_: seen.append("view's"))
    assert sum(len(module._forward_hooks) for module in model.modules()) == 1
    logits(model, random_tokens(1, 3))
    assert seen == ["target's"]
    logits(view, random_tokens(1, 3))
    assert seen.count("target's") == 2, "a hook that the target had is the view's too"


def test_what_was_compiled_from_the_target_does_not_run_for_the_view() -> None:
    model, tokens = tiny_model(), random_tokens(1, 5)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the target's compiled call ran")

    for module in (model, model.model, decoder_layers(model)[0]):
        module._compiled_call_impl = module._compiled_call = fail
    view = nested_view(model, (1,))
    assert not hasattr(view, "_compiled_call")
    torch.testing.assert_close(logits(view, tokens), logits(rebuilt_without(tiny_model(), (1,)), tokens))


def test_a_forward_replaced_on_the_object_is_refused() -> None:
    model = tiny_model()
    model.model.forward = model.model.forward
    with pytest.raises(ValueError, match="Qwen2Model has a forward that was replaced on the object"):
        nested_view(model, (1,))


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("num_kv_shared_layers", 2, "has layers that read another layer's keys and values"),
        ("hidden_size_per_layer_input", 4, "has a separate input for each layer"),
        ("per_layer_config", {1: {"sliding_window": 3}}, "has a separate config for each layer"),
    ],
)
def test_layers_that_depend_on_their_number_cannot_be_left_out(attribute: str, value: object, message: str) -> None:
    model, tokens = tiny_model(), random_tokens(1, 5)
    whole = logits(model, tokens)
    setattr(model.config, attribute, value)
    with pytest.raises(ValueError, match=f"Qwen2ForCausalLM {message}; its layers cannot be left out one by one"):
        nested_view(model, (1,))
    assert torch.equal(logits(nested_view(model, ()), tokens), whole), "nothing is left out here"


@pytest.mark.parametrize(
    ("name", "entries", "message"),
    [
        ("layer_types", ["full_attention"] * 5, "has layer types computed from the layer's number"),
        ("layers_block_type", ["attention"] * 5, "has layer types computed from the layer's number"),
        ("kv_sharing_modes", [None, "store", None, None, "reuse"], "has layers that read another layer's keys"),
        ("kv_sharing_modes", [None] * 5, None),
    ],
)
def test_entries_that_the_config_computes_cannot_be_cut(name: str, entries: list[object], message: str | None) -> None:
    model = tiny_model("llama")
    model.config.__class__ = type("ComputingConfig", (type(model.config),), {name: property(lambda _: entries)})
    if message is None:
        assert len(decoder_layers(nested_view(model, (1,)))) == 4
        return
    with pytest.raises(ValueError, match=message):
        nested_view(model, (1,))
