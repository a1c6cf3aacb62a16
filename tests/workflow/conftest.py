"""One finished run of the smallest experiment, shared by the tests that look at it or steer from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config
from workflow_harness import PROBLEM, Finished, Pipeline, tiny_config


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    """A fresh copy of the pipeline without results."""
    return Pipeline.copied_to(tmp_path / "pipeline")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    pipeline = Pipeline.copied_to(tmp_path_factory.mktemp("finished") / "pipeline")
    config = pipeline.write_config(tiny_config())
    imports = pipeline.folder.parent / "imports"
    first = pipeline.call(config=config, timeout=1800, record=imports)
    assert first.code == 0, first.output
    return Finished(pipeline, config, first, imports)


@pytest.fixture
def small_mirror(tmp_path: Path) -> Path:
    """All that `hub_config` names; the model's weights are none, which only training would notice."""
    folder = tmp_path / "mirror/owner"
    for name, split in (("first", "train"), ("second", "train"), ("bench", "test")):
        (folder / name).mkdir(parents=True)
        (folder / name / f"{split}.jsonl").write_text(json.dumps(PROBLEM) + "\n", encoding="utf-8")
    Qwen2Config(num_hidden_layers=6, max_position_embeddings=64).save_pretrained(folder / "model")
    words = Tokenizer(models.WordLevel({"<end>": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>").save_pretrained(folder / "model")
    (folder / "model/model.safetensors").write_bytes(b"")
    return folder.parent
