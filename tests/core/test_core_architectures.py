"""The nested view of each architecture: it is the model built of the kept layers, and the target stays as it was."""

from __future__ import annotations

import pytest
import torch
from tiny_models import KINDS, in_double, random_tokens, rebuilt_without, tiny_model
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from nested_reft.core.layers import decoder_layers, nested_view

SKIPS = [(2,), (1, 3), (0, 4), (1, 2, 3, 4)]
pytestmark = pytest.mark.parametrize("kind", KINDS)


def logits(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


def test_skip_zero_computes_what_the_target_computes_bit_for_bit(kind: str) -> None:
    model, tokens = tiny_model(kind), random_tokens(2, 9)
    assert torch.equal(logits(nested_view(model, ()), tokens), logits(model, tokens))


@pytest.mark.parametrize("skipped", SKIPS)
def test_a_view_equals_a_model_built_of_the_kept_layers(kind: str, skipped: tuple[int, ...]) -> None:
    model, tokens = tiny_model(kind), random_tokens(2, 9)
    view, expected = logits(nested_view(model, skipped), tokens), logits(rebuilt_without(model, skipped), tokens)
    torch.testing.assert_close(view, expected, rtol=0, atol=1e-6)
    assert (view - logits(model, tokens)).abs().max() > 0.01, "the skipped layers did nothing: the test would be blind"


@pytest.mark.parametrize("skipped", SKIPS)
def test_a_view_reads_its_own_cache_over_twenty_steps(kind: str, skipped: tuple[int, ...]) -> None:
    model, tokens = in_double(tiny_model(kind)), random_tokens(2, 25)
    rebuilt, found = rebuilt_without(model, skipped), []
    for policy in (nested_view(model, skipped), rebuilt):
        cache = DynamicCache(config=policy.config)
        parts = [tokens[:, :5], *tokens[:, 5:].split(1, dim=1)]
        with torch.no_grad():
            steps = [policy(input_ids=part, past_key_values=cache, use_cache=True).logits for part in parts]
        assert len(steps) == 21
        assert len(cache.layers) == 5 - len(skipped)
        found.append(torch.cat(steps, dim=1))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)
    # Against the text read at once: attention's softmax is in float32 for some, whatever the dtype.
    torch.testing.assert_close(found[0], logits(rebuilt, tokens), rtol=0, atol=1e-5)


def test_generate_works_on_a_view(kind: str) -> None:
    model, prompt, skipped = tiny_model(kind), random_tokens(2, 4), (1, 3)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    written = nested_view(model, skipped).generate(prompt, **options)
    assert written.shape == (2, 12)
    assert torch.equal(written, rebuilt_without(model, skipped).generate(prompt, **options))


def test_every_parameter_and_buffer_is_the_target_s_own(kind: str) -> None:
    model = tiny_model(kind)
    own, view = dict(model.named_parameters()), nested_view(model, (1, 3))
    shared = dict(view.named_parameters())
    for name, parameter in shared.items():
        layer, _, rest = name.removeprefix("model.layers.").partition(".")
        target = own[f"model.layers.{(0, 2, 4)[int(layer)]}.{rest}"] if layer.isdigit() else own[name]
        assert parameter is target, name
        assert parameter.data_ptr() == target.data_ptr()
    skipped = sum(name.startswith(("model.layers.1.", "model.layers.3.")) for name in own)
    assert len(shared) == len(own) - skipped
    assert {buffer.data_ptr() for buffer in view.buffers()} <= {buffer.data_ptr() for buffer in model.buffers()}


def test_making_and_sampling_a_view_leaves_the_target_as_it_was(kind: str) -> None:
    model, tokens = tiny_model(kind), random_tokens(2, 9)
    model(input_ids=tokens, use_cache=False).logits.square().mean().backward()
    before, config = logits(model, tokens), model.config.to_dict()
    layers, modules = list(decoder_layers(model)), list(model.modules())
    grads = {name: (parameter.grad, parameter.grad.clone()) for name, parameter in model.named_parameters()}
    view = nested_view(model, (0, 2))
    view.generate(tokens, max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert view.config.num_hidden_layers == 3
    assert len(decoder_layers(view)) == 3
    assert model.config.to_dict() == config
    assert all(now is then for now, then in zip(model.modules(), modules, strict=True))
    assert all(now is then for now, then in zip(decoder_layers(model), layers, strict=True))
    assert [layer.self_attn.layer_idx for layer in layers] == [0, 1, 2, 3, 4]
    assert [layer.self_attn.layer_idx for layer in decoder_layers(view)] == [0, 1, 2]
    for name, parameter in model.named_parameters():
        gradient, values = grads[name]
        assert parameter.grad is gradient, name
        assert torch.equal(parameter.grad, values), name
    assert torch.equal(logits(model, tokens), before)


def test_a_view_records_its_hidden_states_and_the_target_its_own(kind: str) -> None:
    """transformers records them by hooks that it installs on first use and never removes."""
    model, tokens = tiny_model(kind), random_tokens(2, 6)
    view, rebuilt = nested_view(model, (1, 3)), rebuilt_without(model, (1, 3))
    for policy, reference in ((view, rebuilt), (model, tiny_model(kind)), (nested_view(model, (1, 3)), rebuilt)):
        with torch.no_grad():
            found = policy(input_ids=tokens, output_hidden_states=True).hidden_states
            expected = reference(input_ids=tokens, output_hidden_states=True).hidden_states
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
        if policy is view:
            assert not any(module._forward_hooks for module in model.modules())


def test_the_config_of_a_view_describes_the_kept_layers(kind: str) -> None:
    model = tiny_model(kind)
    config, whole = nested_view(model, (1, 2)).config, model.config
    assert type(config) is type(whole)
    for name in ("layer_types", "no_rope_layers"):
        if getattr(whole, name, None):
            assert getattr(config, name) == [getattr(whole, name)[index] for index in (0, 3, 4)], name
            assert len(getattr(whole, name)) == 5
