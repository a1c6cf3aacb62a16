"""Models from the mirror."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nested_reft.config.sources import HubModel
from nested_reft.data.hub_models import fetch_model
from nested_reft.data.records import DataError


def model(layers: int, **keys: Any) -> HubModel:
    return HubModel.model_validate({"source": "hub", "repo": "o/m", "layers": layers, **keys})


def put_model(mirror: Path, **files: bytes) -> Path:
    folder = mirror / "o/m"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"num_hidden_layers": 2}')
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


def test_model_of_the_mirror_is_copied_without_pickles(tmp_path: Path) -> None:
    put_model(
        tmp_path / "mirror", model__safetensors=b"abc", pytorch_model__bin=b"pickle", tokenizer__json=b"{}", x__py=b""
    )
    provenance = fetch_model(model(2), tmp_path / "mirror", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert provenance["files"]["model.safetensors"] == {
        "bytes": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",  # FIPS 180-2, example "abc"
    }
    assert (provenance["origin"], provenance["resolved_revision"]) == ("mirror", None)


def test_wrong_number_of_layers_stops_before_the_weights(tmp_path: Path) -> None:
    put_model(tmp_path / "mirror", model__safetensors=b"abc")
    with pytest.raises(DataError, match="has 2 layers, but the configuration says `layers: 28`"):
        fetch_model(model(28), tmp_path / "mirror", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"o/m: no such model folder.*unset NESTED_REFT_DATA_MIRROR"):
        fetch_model(model(2), tmp_path / "mirror", tmp_path / "out")
    folder = put_model(tmp_path / "mirror", pytorch_model__bin=b"pickle")
    with pytest.raises(DataError, match=r"no \.safetensors file"):
        fetch_model(model(2), tmp_path / "mirror", tmp_path / "out")
    (folder / "config.json").write_text("{}")
    with pytest.raises(DataError, match="does not state num_hidden_layers"):
        fetch_model(model(2), tmp_path / "mirror", tmp_path / "out")
