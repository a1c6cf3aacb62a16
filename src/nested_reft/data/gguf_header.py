"""What a GGUF file says about itself, and whether transformers would make the same model of it.

transformers leaves out whatever it does not know, without an error: the check of every name and every type is here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nested_reft.data.records import DataError

_LAYER = r"blk\.\d+\."
_LLAMA = (
    r"(?:token_embd|output|output_norm)\.weight"
    rf"|{_LAYER}(?:attn_norm|attn_q|attn_k|attn_v|attn_output|ffn_norm|ffn_gate|ffn_up|ffn_down)\.weight"
)
# By architecture, the tensors that such a model has: these are the Llama-like models of `nested_reft.engine.llama`.
TENSORS = {
    "llama": _LLAMA,
    "qwen2": rf"{_LLAMA}|{_LAYER}attn_[qkv]\.bias",
    "qwen3": rf"{_LLAMA}|{_LAYER}attn_[qk]_norm\.weight",
}
# How byte-level tokenizers split a text: in ways that transformers knows, and in one that also splits off every digit.
SPLITS = ("gpt-2", "llama-bpe", "llama3", "llama-v3", "qwen2", "deepseek-r1-qwen")
DIGIT_SPLITS = ("smollm", "starcoder", "refact", "command-r")
# Those in which a word that is a token is not put together by merges, and in which a text starts with the first token
# unless the file says otherwise.
WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3")
# All that is read or means nothing here; of these, what is done for no file, by kind of tokenizer.
_TOKENIZER = (
    r"tokenizer\.(?:ggml\.(?:model|pre|tokens|token_type(?:_count)?|scores|merges|add_(?:bos|eos|sep)_token|\w+_token_id"
    r"|add_space_prefix|remove_extra_whitespaces)|chat_templates?(?:\.\w+)?|huggingface\.json)"
)
_NOT_DONE = {
    "gpt2": ("add_sep_token", "remove_extra_whitespaces", "add_space_prefix"),
    "llama": ("add_sep_token", "remove_extra_whitespaces"),
}
# Significant bits of the floats; of a quantised type, the digit in its name.
_BITS = {"F32": 24, "F16": 11, "BF16": 8}
# Tokens that end a text, a turn or a message to a tool.
END_TOKENS = ("eos", "eot", "eom")


@dataclass(frozen=True)
class Header:
    """What is read before the weights."""

    architecture: str
    layers: int
    end_ids: tuple[int, ...]
    """Tokens that end a completion; empty if the file names none."""
    tokenizer: str
    """The kind of tokenizer."""
    split: str | None
    """How a byte-level tokenizer splits a text."""
    adds_space: bool
    """Whether the tokenizer puts a space before a text."""
    embedding_bits: int
    """With how many bits the entries of the embedding are stored."""
    head_bits: int | None
    """The same of the head; None if the file has none, since it is the embedding."""


def read_header(path: Path, name: str) -> Header:
    """The header of the GGUF file at `path`, which messages call `name`.

    Raises DataError if the file is damaged, or the model is not one that can be loaded as it is.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(path)
        # Arrays have two types or more: the vocabulary, which takes long to read.
        fields = {key: field.contents() for key, field in reader.fields.items() if len(field.types) == 1}
    except FileNotFoundError:
        raise DataError(f"{name}: there is no such file; correct `path`") from None
    except (IsADirectoryError, PermissionError) as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}); correct `path`") from None
    # A file that is cut short or of another kind: numpy's views and gguf's enumerations raise any of these.
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name}: is not a GGUF file, or is cut short ({reason}); get it again") from None
    architecture = str(fields.get("general.architecture"))
    if architecture not in TENSORS:
        raise DataError(
            f"{name}: has architecture '{architecture}'; supported are {', '.join(TENSORS)}, so take another model"
        )
    if fields.get("split.count", 1) > 1:
        raise DataError(f"{name}: is one of {fields['split.count']} parts; join them with `llama-gguf-split --merge`")
    scaling = fields.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none":
        raise DataError(
            f"{name}: scales its positions (rope.scaling.type '{scaling}'), which transformers does not read from a "
            "GGUF file; take another model"
        )
    _check_tensors(reader, architecture, name)
    layers = fields.get(f"{architecture}.block_count")
    if not isinstance(layers, int):
        raise DataError(f"{name}: does not state {architecture}.block_count; get it again")
    _check_tokenizer(fields, list(reader.fields), name)
    ends = [fields.get(f"tokenizer.ggml.{token}_token_id") for token in END_TOKENS]
    kind = fields["tokenizer.ggml.model"]
    bits = {tensor.name: _bits(tensor.tensor_type.name) for tensor in reader.tensors}
    return Header(
        architecture,
        layers,
        end_ids=tuple(dict.fromkeys(end for end in ends if end is not None)),
        tokenizer=kind,
        split=fields.get("tokenizer.ggml.pre"),
        adds_space=fields.get("tokenizer.ggml.add_space_prefix", kind == "llama"),
        embedding_bits=bits.get("token_embd.weight", 0),
        head_bits=bits.get("output.weight"),
    )


def _bits(kind: str) -> int:
    found = re.search(r"\d", kind)
    return _BITS.get(kind) or int(found[0] if found else 0)


def _check_tokenizer(fields: Mapping[str, Any], keys: Sequence[str], name: str) -> None:
    kind, split = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind not in _NOT_DONE:
        raise DataError(
            f"{name}: has a tokenizer of the kind '{kind}' (tokenizer.ggml.model); supported are "
            f"{', '.join(_NOT_DONE)}, so take another file"
        )
    if kind == "gpt2" and split not in (*SPLITS, *DIGIT_SPLITS):
        raise DataError(
            f"{name}: its tokenizer splits texts in the way '{split}' (tokenizer.ggml.pre); supported are "
            f"{', '.join((*SPLITS, *DIGIT_SPLITS))}, so take another file"
        )
    unknown = [key for key in keys if key.startswith("tokenizer.") and not re.fullmatch(_TOKENIZER, key)]
    asked = [key for key in _NOT_DONE[kind] if fields.get(f"tokenizer.ggml.{key}")]
    if unknown or asked:
        what = unknown[0] if unknown else f"tokenizer.ggml.{asked[0]} = True"
        raise DataError(
            f"{name}: its tokenizer needs {what}, which transformers does not read from a GGUF file; take another file"
        )


def _check_tensors(reader: Any, architecture: str, name: str) -> None:
    import gguf

    left_out = [tensor.name for tensor in reader.tensors if not re.fullmatch(TENSORS[architecture], tensor.name)]
    if left_out:
        raise DataError(
            f"{name}: has {len(left_out)} tensors that a {architecture} model does not have, the first is "
            f"{left_out[0]}; take another model"
        )
    for kind, tensor in {tensor.tensor_type: tensor for tensor in reader.tensors}.items():
        try:
            gguf.dequantize(tensor.data[:1], kind)
        except NotImplementedError:
            raise DataError(
                f"{name}: {tensor.name} has the type {kind.name}, which the package gguf cannot dequantise; take a "
                "file of another type, such as Q8_0, or upgrade: pip install --upgrade gguf"
            ) from None
