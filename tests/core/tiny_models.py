"""Tiny models with random weights of a size that lets every layer matter, and the model a nested view should equal."""

from __future__ import annotations

import copy
import re

import torch
from torch import Tensor
from transformers import (
    BambaConfig,
    BambaForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MiniMaxConfig,
    MiniMaxForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

torch.set_num_threads(1)

SHAPE = {
    "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip
FULL, WINDOW = "full_attention", "sliding_attention"

# What makes a layer unlike its neighbours: windows of 4 tokens in some, in others no rotary positions, or dense layers
# between those with experts.
MODELS = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}),
    "qwen3_full": (Qwen3ForCausalLM, Qwen3Config, {}),
    "llama": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": False}),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, {"sliding_window": 4, "query_pre_attn_scalar": 8}),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, {"sliding_window": 4, "query_pre_attn_scalar": 8}),
    "smollm3": (SmolLM3ForCausalLM, SmolLM3Config, {"no_rope_layer_interval": 2}),
    "qwen3_moe": (
        Qwen3MoeForCausalLM, Qwen3MoeConfig,
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "mlp_only_layers": [0, 3]},
    ),
    "mixtral": (MixtralForCausalLM, MixtralConfig, {"num_local_experts": 3, "num_experts_per_tok": 2}),
    # Hybrid models: of five layers only one has keys and values, the others have a state in their place.
    "lfm2": (Lfm2ForCausalLM, Lfm2Config, {"block_auto_adjust_ff_dim": False}),
    "qwen3_5": (
        Qwen3_5ForCausalLM, Qwen3_5TextConfig,
        {"linear_num_value_heads": 2, "linear_num_key_heads": 1, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    ),
    "granitemoehybrid": (
        GraniteMoeHybridForCausalLM, GraniteMoeHybridConfig,
        {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 4,
         "num_local_experts": 0, "shared_intermediate_size": 16},
    ),
}  # fmt: skip
# What their layers without attention are called.
HYBRIDS = {"lfm2": "conv", "qwen3_5": "linear_attention", "granitemoehybrid": "mamba"}
# What cannot be sampled: a cache of its own, and layers that ask for their number.
ODD = {
    "minimax": (
        MiniMaxForCausalLM, MiniMaxConfig, {"num_local_experts": 2, "num_experts_per_tok": 1, "block_size": 4},
    ),
    "bamba": (
        BambaForCausalLM, BambaConfig,
        {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "attn_layer_indices": [1]},
    ),
}  # fmt: skip
KINDS = tuple(kind for kind in MODELS if kind not in HYBRIDS)


def tiny_model(
    kind: str = "qwen2", *, layers: int = 5, vocab: int = 23, seed: int = 0, **changes: object
) -> PreTrainedModel:
    """A model in evaluation mode, with random weights large enough that every layer matters.

    `changes` are of its config.
    """
    model_class, config_class, options = (MODELS | ODD)[kind]
    if kind in (other := {"gemma3": WINDOW, "minimax": "linear_attention"} | HYBRIDS):
        options = options | {"layer_types": [FULL if index % 3 == 2 else other[kind] for index in range(layers)]}
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # for what is random of the vectors, to which noise is added
        settings = SHAPE | {"num_hidden_layers": layers, "vocab_size": vocab} | options | changes
        model = model_class(config_class(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * noise if parameter.ndim > 1 else parameter + 0.1 * noise)
    return model.eval()


def in_double(model: PreTrainedModel) -> PreTrainedModel:
    """The model in float64; its experts, if it has any, one by one, as the grouped product knows no float64."""
    if any("experts" in name for name, _ in model.named_modules()):
        model.set_experts_implementation("eager")
    return model.double()


def rebuilt_without(model: PreTrainedModel, skipped: tuple[int, ...]) -> PreTrainedModel:
    """A model built from a smaller config, with copies of the weights of the kept layers."""
    kept = [index for index in range(model.config.num_hidden_layers) if index not in skipped]
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(kept)
    for name in ("layer_types", "no_rope_layers"):
        if getattr(config, name, None):
            setattr(config, name, [getattr(model.config, name)[index] for index in kept])
    if getattr(config, "mlp_only_layers", None):
        config.mlp_only_layers = [kept.index(index) for index in model.config.mlp_only_layers if index in kept]
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
