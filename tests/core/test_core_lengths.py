"""Rotary embeddings of every type, within the length that they were made for and beyond it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import FULL, SHAPE, WINDOW, padded_prompts, tiny_model
from torch import Tensor
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MptConfig,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from nested_reft.core.layers import nested_view
from nested_reft.core.rollout import Rollout
from nested_reft.engine.lengths import LengthError, exact_limit, length_dependence, position_limit
from nested_reft.engine.logp import completion_logp
from nested_reft.engine.sampling import sample_completions

ORIGINAL = 16
FACTORS = {"short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 5.0, 9.0]}
ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": ORIGINAL},
    "llama3": {
        "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": ORIGINAL,
    },
    "dynamic": {"factor": 4.0},
    "longrope": {"factor": 4.0, "original_max_position_embeddings": ORIGINAL, **FACTORS},
}  # fmt: skip
FIXED = ("default", "linear", "yarn", "llama3")
BY_LENGTH = ("dynamic", "longrope")


def build(kind: str, rope: str) -> PreTrainedModel:
    """A model of `ORIGINAL` positions, with random weights large enough that every layer matters."""
    parameters = {"rope_type": rope, "rope_theta": 100.0, **ROPES[rope]}
    shape = SHAPE | {"max_position_embeddings": ORIGINAL, "num_hidden_layers": 3, "vocab_size": 23}
    if kind == "llama":
        model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**shape, rope_parameters=parameters))
    elif kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**shape, rope_parameters=parameters))
    elif kind == "phi3":
        options: dict[str, Any] = {"original_max_position_embeddings": ORIGINAL} if rope == "longrope" else {}
        model = Phi3ForCausalLM(Phi3Config(**shape, rope_parameters=parameters, **options))
    else:  # one type of rotary embedding for each type of layer
        layers = {FULL: parameters, WINDOW: {"rope_type": "default", "rope_theta": 10.0}}
        options = {"layer_types": [FULL, WINDOW, FULL], "sliding_window": 8, "query_pre_attn_scalar": 8}
        model = Gemma3ForCausalLM(Gemma3TextConfig(**shape, **options, rope_parameters=layers))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * noise if parameter.ndim > 1 else parameter + 0.1 * noise)
    return model.eval()


KINDS = ("llama", "qwen3", "gemma3")
# Phi-3 knows only these two.
FIXED_CASES = [*((kind, rope) for kind in KINDS for rope in FIXED), ("phi3", "default")]
BY_LENGTH_CASES = [*((kind, rope) for kind in KINDS for rope in BY_LENGTH), ("phi3", "longrope")]


def sample(model: PreTrainedModel, new_tokens: int, lengths: tuple[int, ...] = (3, 6, 5)) -> Rollout:
    return sample_completions(
        model, *padded_prompts(lengths), group_size=2, max_new_tokens=new_tokens, temperature=1.0, end_ids=(), pad_id=0,
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip


def assert_exact(model: PreTrainedModel, new_tokens: int) -> None:
    """Sampler and trainer agree on every token, and the size of the trainer's calls does not matter."""
    rollout = sample(model, new_tokens)
    with torch.no_grad():
        logp = completion_logp(model, rollout, 1.0)
        parts = [completion_logp(model, rollout.groups(slice(first, first + 1)), 1.0) for first in range(3)]
    torch.testing.assert_close(logp, rollout.logp, atol=2e-5, rtol=0)
    torch.testing.assert_close(torch.cat(parts), logp, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("kind", "rope"), FIXED_CASES)
def test_types_with_fixed_frequencies_are_exact_at_every_length(kind: str, rope: str) -> None:
    model = build(kind, rope)
    assert exact_limit(model.config) is None
    assert_exact(model, 2 * ORIGINAL)
    assert length_dependence(model, [3, 4, 5, 6, 7], 3 * ORIGINAL) < 1e-4


@pytest.mark.parametrize(("kind", "rope"), BY_LENGTH_CASES)
def test_types_whose_frequencies_depend_on_the_length_are_exact_up_to_the_original_one(kind: str, rope: str) -> None:
    model = build(kind, rope)
    assert exact_limit(model.config) == (ORIGINAL, rope)
    assert_exact(model, ORIGINAL - 6)
    assert length_dependence(model, [3, 4, 5, 6, 7], ORIGINAL) < 1e-4
    assert length_dependence(model, [3, 4, 5, 6, 7], 3 * ORIGINAL) > 1e-2


@pytest.mark.parametrize("skipped", [(), (1,)])
@pytest.mark.parametrize(("kind", "rope"), BY_LENGTH_CASES)
def test_beyond_the_original_length_they_are_refused_by_name(kind: str, rope: str, skipped: tuple[int, ...]) -> None:
    model = nested_view(build(kind, rope), skipped)
    message = f"rope_type '{rope}' depend on the length of a call beyond {ORIGINAL} tokens.*this call has 17: shorten"
    with pytest.raises(LengthError, match=message) as caught:
        sample(model, ORIGINAL - 5)
    assert "\n" not in str(caught.value)
    rollout = sample(build(kind, "default"), ORIGINAL - 5)
    with pytest.raises(LengthError, match=message):
        completion_logp(model, rollout, 1.0)
    short = rollout.groups(slice(1))  # its prompt has 3 tokens
    assert completion_logp(model, short, 1.0).shape == (2, ORIGINAL - 5)


@pytest.mark.parametrize(("kind", "rope"), [*FIXED_CASES, *BY_LENGTH_CASES])
def test_the_limit_is_that_of_the_config_or_of_yarn(kind: str, rope: str) -> None:
    assert position_limit(build(kind, rope).config) == (4 * ORIGINAL if rope == "yarn" else ORIGINAL)


def test_a_limit_may_have_another_name_or_be_missing() -> None:
    assert position_limit(GPT2Config(n_positions=40)) == 40
    assert position_limit(MptConfig(max_seq_len=50)) == 50
    assert position_limit(MambaConfig()) is None


# --- whatever else may depend on the length of a call


def scaled_by_length(model: PreTrainedModel) -> None:
    """Attention that is scaled by the logarithm of the call's length, as some models are."""
    forward = model.model.rotary_emb.forward

    def scaled(hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = forward(hidden, position_ids)
        factor = 1 + 0.1 * torch.log(position_ids.max() + 1.0)
        return cos * factor, sin * factor

    model.model.rotary_emb.forward = scaled


def ignores_positions(model: PreTrainedModel) -> None:
    """Learned positions that are counted from the first token of the call, padding or not."""
    positions = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: output + positions[: output.shape[1]])


def sees_the_future(model: PreTrainedModel) -> None:
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: output + output.mean(1, keepdim=True))


@pytest.mark.parametrize("change", [scaled_by_length, ignores_positions, sees_the_future])
def test_whatever_depends_on_the_length_of_a_call_is_found(change: Callable[[PreTrainedModel], None]) -> None:
    model = tiny_model("llama")
    assert length_dependence(model, [3, 4, 5, 6], 20) < 1e-4
    change(model)
    assert length_dependence(model, [3, 4, 5, 6], 20) > 1e-2
