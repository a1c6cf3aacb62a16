"""Writes GGUF files of tiny models with random weights, as llama.cpp's converter would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

HEADS, KEY_VALUE_HEADS = 4, 2
# transformers reads no width from a file of Qwen3, whose models all have 128.
WIDTHS = {"llama": 8, "qwen2": 8, "qwen3": 128}
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*SPECIALS, *sorted(ByteLevel.alphabet()), "ĊĊ", "12"]
MERGES = ["Ċ Ċ", "1 2"]
# A tokenizer of the other kind: as many tokens, among them all bytes, and a space as ▁.
PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "x"]
SENTENCEPIECE = {
    "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.scores": [0.0] * len(PIECES), "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1, 1],
    "tokenizer.ggml.merges": None, "tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.add_bos_token": None,
}  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def write_gguf(
    path: Path, architecture: str = "llama", kind: str = "F32", *, layers: int = 2, tied: bool = True, again: str = "",
    says: dict[str, Any] | None = None, extra: dict[str, np.ndarray] | None = None, leave_out: str = "",
) -> PreTrainedModel:  # fmt: skip
    """A model with its matrices as `kind`; returns it with the weights that the file means.

    `again` is the type in which the tied embedding is stored again, as the head; then the finer of the two is meant.
    `says` changes metadata (a value None leaves it out), `extra` adds tensors.
    """
    model = _random_model(architecture if architecture in ("llama", "qwen2", "qwen3") else "llama", layers, tied)
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (_metadata(architecture, layers) | (says or {})).items():
        _add(writer, key, value)
    quantization = gguf.GGMLQuantizationType[kind]
    embedding = model.get_input_embeddings().weight.detach().numpy().copy()
    for name, weight in list(model.named_parameters()):
        there = weight.detach().numpy()
        if there.ndim > 1:
            packed = gguf.quantize(there, quantization)
            weight.data = torch.from_numpy(np.array(gguf.dequantize(packed, quantization)))
            if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
                packed = _permuted(packed, HEADS if "q_proj" in name else KEY_VALUE_HEADS)
        if leave_out and leave_out in _name(name):
            continue
        if there.ndim > 1:
            writer.add_tensor(_name(name), packed, raw_dtype=quantization)
        else:
            writer.add_tensor(_name(name), there)
    if again:
        packed = gguf.quantize(embedding, gguf.GGMLQuantizationType[again])
        writer.add_tensor("output.weight", packed, raw_dtype=gguf.GGMLQuantizationType[again])
        meant = np.array(gguf.dequantize(packed, gguf.GGMLQuantizationType[again]))
        errors = [
            np.abs(there - embedding).max() for there in (meant, model.get_input_embeddings().weight.numpy(force=True))
        ]
        if errors[0] < errors[1]:
            model.get_input_embeddings().weight.data = torch.from_numpy(meant)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _random_model(architecture: str, layers: int, tied: bool) -> PreTrainedModel:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(
            architecture, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=HEADS,
            num_key_value_heads=KEY_VALUE_HEADS, head_dim=WIDTHS[architecture], vocab_size=len(TOKENS),
            max_position_embeddings=64, tie_word_embeddings=tied, rms_norm_eps=1e-5, initializer_range=0.3,
            rope_parameters={"rope_type": "default", "rope_theta": 5e4},
        )
    )  # fmt: skip
    with torch.no_grad():  # norms of 1 and biases of 0 would hide a mix-up
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def _metadata(architecture: str, layers: int) -> dict[str, Any]:
    width = WIDTHS.get(architecture, 8)
    shape: dict[str, Any] = {
        "block_count": layers, "context_length": 64, "embedding_length": 32, "feed_forward_length": 64,
        "attention.head_count": HEADS, "attention.head_count_kv": KEY_VALUE_HEADS, "attention.key_length": width,
        "attention.value_length": width, "rope.dimension_count": width, "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 5e4,
    }  # fmt: skip
    tokenizer = {
        "ggml.model": "gpt2", "ggml.pre": "smollm", "ggml.tokens": TOKENS, "ggml.merges": MERGES,
        "ggml.token_type": [3] * len(SPECIALS) + [1] * (len(TOKENS) - len(SPECIALS)), "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 2, "ggml.padding_token_id": 0, "ggml.add_bos_token": False, "chat_template": TEMPLATE,
    }  # fmt: skip
    return {f"{architecture}.{key}": value for key, value in shape.items()} | {
        f"tokenizer.{key}": value for key, value in tokenizer.items()
    }


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif value is not None:
        writer.add_uint32(key, value)


def _name(name: str) -> str:
    if not name.startswith("model.layers."):
        return {
            "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
            "lm_head.weight": "output.weight",
        }[name]  # fmt: skip
    number, rest = name.removeprefix("model.layers.").split(".", 1)
    part, suffix = rest.rsplit(".", 1)
    return f"blk.{number}.{NAMES[part]}.{suffix}"


def _permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys in the order of llama.cpp, which rotates neighbours and not halves."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
