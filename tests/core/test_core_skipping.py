"""The layers drawn, and the nested view: the target's own tensors, without the skipped layers, and nothing else."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
import torch
from scipy.stats import chisquare
from tiny_models import random_tokens, rebuilt_without, tiny_model
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from nested_reft.core.skipping import decoder_layers, draw_skipped_layers, nested_view

KINDS = ("qwen2", "llama", "gemma2")
SKIPS = [(2,), (1, 3), (0, 4), (1, 2, 3, 4)]


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


# --- the view


@pytest.mark.parametrize("kind", KINDS)
def test_skip_zero_computes_what_the_target_computes_bit_for_bit(kind: str) -> None:
    model, tokens = tiny_model(kind), random_tokens(2, 9)
    assert torch.equal(logits(nested_view(model, ()), tokens), logits(model, tokens))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skipped", SKIPS)
def test_a_view_equals_a_model_built_of_the_kept_layers(kind: str, skipped: tuple[int, ...]) -> None:
    model, tokens = tiny_model(kind), random_tokens(2, 9)
    view, expected = logits(nested_view(model, skipped), tokens), logits(rebuilt_without(model, skipped), tokens)
    torch.testing.assert_close(view, expected, rtol=0, atol=1e-6)
    assert (view - logits(model, tokens)).abs().max() > 0.01, "the skipped layers did nothing: the test would be blind"


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_reads_its_own_cache_over_many_steps(kind: str) -> None:
    model, tokens, skipped = tiny_model(kind).double(), random_tokens(2, 12), (1, 3)
    view, expected = nested_view(model, skipped), logits(rebuilt_without(model, skipped), tokens)
    cache = DynamicCache(config=view.config)
    with torch.no_grad():
        steps = [view(input_ids=tokens[:, :5], past_key_values=cache, use_cache=True).logits]
        steps += [
            view(input_ids=tokens[:, i : i + 1], past_key_values=cache, use_cache=True).logits for i in range(5, 12)
        ]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=0, atol=1e-6)
    assert len(cache.layers) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_generate_works_on_a_view(kind: str) -> None:
    model, prompt, skipped = tiny_model(kind), random_tokens(2, 4), (1, 3)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    written = nested_view(model, skipped).generate(prompt, **options)
    assert written.shape == (2, 12)
    assert torch.equal(written, rebuilt_without(model, skipped).generate(prompt, **options))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_and_buffer_is_the_target_s_own(kind: str) -> None:
    model = tiny_model(kind)
    own, view = dict(model.named_parameters()), nested_view(model, (1, 3))
    shared = dict(view.named_parameters())
    for name, parameter in shared.items():
        layer, _, rest = name.removeprefix("model.layers.").partition(".")
        target = own[f"model.layers.{(0, 2, 4)[int(layer)]}.{rest}"] if layer.isdigit() else own[name]
        assert parameter is target, name
    per_layer = sum(name.startswith("model.layers.0.") for name in own)
    assert len(shared) == len(own) - 2 * per_layer
    assert {buffer.data_ptr() for buffer in view.buffers()} <= {buffer.data_ptr() for buffer in model.buffers()}


@pytest.mark.parametrize("kind", KINDS)
def test_making_and_using_a_view_leaves_the_target_as_it_was(kind: str) -> None:
    model, tokens = tiny_model(kind), random_tokens(2, 9)
    before, config = logits(model, tokens), model.config.to_dict()
    layers, modules = list(decoder_layers(model)), list(model.modules())
    view = nested_view(model, (0, 2))
    view.generate(tokens, max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert view.config.num_hidden_layers == 3
    assert len(decoder_layers(view)) == 3
    assert model.config.to_dict() == config
    assert all(now is then for now, then in zip(model.modules(), modules, strict=True))
    assert all(now is then for now, then in zip(decoder_layers(model), layers, strict=True))
    assert [layer.self_attn.layer_idx for layer in layers] == [0, 1, 2, 3, 4]
    assert [layer.self_attn.layer_idx for layer in decoder_layers(view)] == [0, 1, 2]
    assert torch.equal(logits(model, tokens), before)


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
