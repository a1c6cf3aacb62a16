"""Tiny models with random weights of a size that lets every layer matter, and the model a nested view should equal."""

from __future__ import annotations

import copy
import re

import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

torch.set_num_threads(1)

SHAPE = {
    "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip


def tiny_model(kind: str = "qwen2", *, layers: int = 5, vocab: int = 23, seed: int = 0) -> PreTrainedModel:
    """A model in evaluation mode; Gemma 2 with layers that alternate between a window of 4 tokens and all of them."""
    sizes = SHAPE | {"num_hidden_layers": layers, "vocab_size": vocab}
    if kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=True))
    elif kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False))
    else:
        model = Gemma2ForCausalLM(Gemma2Config(**sizes, sliding_window=4, query_pre_attn_scalar=8))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * noise if parameter.ndim > 1 else parameter + 0.1 * noise)
    return model.eval()


def rebuilt_without(model: PreTrainedModel, skipped: tuple[int, ...]) -> PreTrainedModel:
    """A model built from a smaller config, with copies of the weights of the kept layers."""
    kept = [index for index in range(model.config.num_hidden_layers) if index not in skipped]
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [model.config.layer_types[index] for index in kept]
    weights = {}
    for name, tensor in model.state_dict().items():
        found = re.match(r"model\.layers\.(\d+)\.(.*)", name)
        if found is None:
            weights[name] = tensor.clone()
        elif int(found[1]) in kept:
            weights[f"model.layers.{kept.index(int(found[1]))}.{found[2]}"] = tensor.clone()
    smaller = type(model)(config).to(model.dtype)
    smaller.load_state_dict(weights, strict=True)
    return smaller.eval()


def random_tokens(rows: int, length: int, *, vocab: int = 23, seed: int = 1) -> Tensor:
    """Token ids (rows, length), none of them the pad or end token."""
    return torch.randint(2, vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


def padded_prompts(lengths: tuple[int, ...], *, vocab: int = 23, seed: int = 2) -> tuple[Tensor, Tensor]:
    """Random prompts of these lengths, padded on the left: ids and mask, (P, longest)."""
    ids = random_tokens(len(lengths), max(lengths), vocab=vocab, seed=seed)
    mask = torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths).unsqueeze(1)
    return torch.where(mask, ids, 0), mask
