"""A model from a GGUF file, of a Python package or by path, as a folder that `load_policy` reads.

Quantised weights are dequantised, exactly as the file says, and saved in float32: training needs weights that it can
change by little.
"""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, nullcontext
from importlib import util
from pathlib import Path
from typing import Any

from nested_reft.config.sources import GgufModel, PackageModel
from nested_reft.data.files import fingerprints
from nested_reft.data.gguf_header import DIGIT_SPLITS, WHOLE_WORDS, Header, read_header
from nested_reft.data.package_files import package_file
from nested_reft.data.records import DataError
from nested_reft.runtime.files import check_space

NEEDED = ("gguf", "accelerate")  # by transformers, to read such a file


def load_gguf(settings: PackageModel | GgufModel, destination: Path) -> dict[str, Any]:
    """Save the model and its tokenizer into `destination`; returns where they came from, for the run's manifest.

    In the record, `files` maps the GGUF file's name to its `bytes` and `sha256`. Raises DataError if the file cannot be
    had or read, is of a model that is not supported, or has another number of layers than `settings.layers`.
    """
    for package in NEEDED:
        if util.find_spec(package) is None:
            raise DataError(
                f"source: {settings.source}: needs the package '{package}'; run: pip install 'nested-reft[gguf]'"
            )
    if isinstance(settings, PackageModel):
        file: AbstractContextManager[Path] = package_file(settings.package)
        thing = {"package": settings.package}
    else:
        file, thing = nullcontext(Path(settings.path).expanduser()), {"path": settings.path}
    with file as path:
        name = f"{settings.package}, {path.name}" if isinstance(settings, PackageModel) else settings.path
        header = read_header(path, name)
        if header.layers != settings.layers:
            raise DataError(
                f"{name}: has {header.layers} layers, but the configuration says `layers: {settings.layers}`"
            )
        files = fingerprints(path.parent, [path])
        _convert(path, name, header, destination)
    return {"kind": "model", "origin": settings.source, **thing, "files": files}


def _convert(path: Path, name: str, header: Header, destination: Path) -> None:
    from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

    # A folder of its own: transformers would take a tokenizer.json or a chat template beside the file for the model's.
    with tempfile.TemporaryDirectory(prefix="nested-reft-") as folder:
        link = Path(folder) / "model.gguf"
        link.symlink_to(path.resolve())
        first = header.tokenizer == "llama" or header.split in WHOLE_WORDS  # unless the file says otherwise
        try:
            # The class that loads the result: the model type's own has rules of its own.
            tokenizer = PreTrainedTokenizerFast.from_pretrained(
                folder, gguf_file=link.name, local_files_only=True, add_bos_token=first
            )
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=link.name, local_files_only=True, dtype="float32", output_loading_info=True
            )
        except Exception as error:  # the parsers of gguf, tokenizers and transformers have no common error
            reason = f"{type(error).__name__}: {' '.join(str(error).replace(str(link), 'it').split())}"
            raise DataError(f"{name}: transformers cannot load it ({reason}); take another model") from None
    wrong = sorted({*info["missing_keys"], *info["unexpected_keys"], *map(str, info["mismatched_keys"])})
    if wrong:
        raise DataError(f"{name}: {len(wrong)} of its weights are missing or misplaced, the first is {wrong[0]}")
    _complete_tokenizer(tokenizer.backend_tokenizer, header)
    _tie(model, header)
    # transformers takes what it dequantised for quantised still, and would not save it.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(header.end_ids) if len(header.end_ids) > 1 else next(iter(header.end_ids), None),
        pad_token_id=tokenizer.pad_token_id,
    )
    check_space(destination, sum(weight.nbytes for weight in model.parameters()), "the model")
    model.save_pretrained(destination)
    tokenizer.save_pretrained(destination)


def _complete_tokenizer(tokenizer: Any, header: Header) -> None:
    """Do what the file says of the tokenizer and transformers does not read."""
    from tokenizers import pre_tokenizers
    from transformers import LlamaTokenizer

    if header.split in DIGIT_SPLITS:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if header.split in WHOLE_WORDS:
        tokenizer.model.ignore_merges = True
    if header.tokenizer == "llama" and not header.adds_space:
        without = LlamaTokenizer(add_prefix_space=False).backend_tokenizer
        tokenizer.pre_tokenizer, tokenizer.decoder = without.pre_tokenizer, without.decoder


def _tie(model: Any, header: Header) -> None:
    """Make one matrix of embedding and head if the file has it twice, rounded in two ways: the finer of the two.

    Rounding to b bits changes a matrix by about 1.3 / 2^b of its norm. Two matrices that were trained apart differ by
    more than the norm of either.
    """
    import torch

    if header.head_bits is None:
        return
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    with torch.no_grad():
        difference = ((embedding - head).norm() / head.norm()).item()
        if difference > min(3 / 2 ** min(header.embedding_bits, header.head_bits), 0.5):
            return
        if header.head_bits > header.embedding_bits:
            embedding.copy_(head)
    model.config.tie_word_embeddings = True
    model.tie_weights()
