"""Nested vLLM without vLLM: what a worker does to layers of vLLM's kind, which weights it loads, and what it refuses.

What the real engine computes is tested in tests/vllm_engine.
"""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import tiny_model
from torch import Tensor, nn

from nested_reft.integrations.vllm_worker import NestedWorker, _bypass, refuse_engine, set_skipped


class Layer(nn.Module):
    """A decoder layer that hands on its output and the residual stream apart, as vLLM's do."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, positions: Tensor, hidden_states: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        residual = hidden_states if residual is None else hidden_states + residual
        return self.factor * residual, residual


class OtherLayer(nn.Module):
    """One that hands on the sum: `_bypass` does not fit."""

    def forward(self, positions: Tensor, hidden_states: Tensor) -> Tensor:
        return hidden_states


def model_of(*layers: nn.Module) -> nn.Module:
    outer, inner = nn.Module(), nn.Module()
    inner.layers = nn.ModuleList(layers)
    outer.model = inner
    return outer


def output(model: Any) -> float:
    """What the layers make of 1: each kept one multiplies by 1 + its factor."""
    hidden, residual = torch.ones(1), None
    for layer in model.model.layers:
        hidden, residual = layer(torch.zeros(1), hidden, residual)
    return float(hidden + residual)


def good_config() -> Any:
    return SimpleNamespace(
        model_config=SimpleNamespace(enforce_eager=True, logprobs_mode="processed_logprobs", is_moe=False),
        parallel_config=SimpleNamespace(pipeline_parallel_size=1),
        compilation_config=SimpleNamespace(fast_moe_cold_start=False),
        speculative_config=None,
        kv_transfer_config=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("skipped", "expected"),
    [((), 2 * 3 * 4 * 5), ((0,), 3 * 4 * 5), ((3,), 2 * 3 * 4), ((0, 1, 3), 4), ((1, 2), 2 * 5)],
)
def test_a_skipped_layer_is_as_if_it_were_not_there(skipped: tuple[int, ...], expected: float) -> None:
    model = model_of(*(Layer(factor) for factor in (1.0, 2.0, 3.0, 4.0)))
    set_skipped(model, (2,))
    set_skipped(model, skipped)
    assert output(model) == expected
    set_skipped(model, ())
    assert output(model) == 120


def with_shared_cache() -> nn.Module:
    model = model_of(Layer(1.0), Layer(2.0))
    model.model.layers[1].kv_sharing_target_layer_name = "layers.0"
    return model


def with_replaced_forward() -> nn.Module:
    model = model_of(Layer(1.0), Layer(2.0))
    model.model.layers[1].forward = lambda *_: None
    return model


@pytest.mark.parametrize(
    ("model", "skipped", "reason"),
    [
        (nn.Linear(1, 1), (0,), "Linear has no list of decoder layers at model.layers"),
        (model_of(Layer(1.0), Layer(2.0)), (2, 0), r"skipped has \[2\], but the model's layers are 0 to 1"),
        (model_of(Layer(1.0), Layer(2.0)), (0, 1, 1), "skipped names every layer; at least one must be left"),
        (model_of(OtherLayer(), Layer(2.0)), (1,), r"OtherLayer is called with \(positions, hidden_states\), not"),
        (with_shared_cache(), (0,), "layers that read another layer's keys and values"),
        (with_replaced_forward(), (0,), "Layer has a forward that was replaced on the object"),
    ],
)
def test_a_model_or_a_choice_that_does_not_fit_is_refused(
    model: nn.Module, skipped: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        set_skipped(model, skipped)
    assert not [part for part in model.modules() if vars(part).get("forward") is _bypass]


def test_a_good_engine_is_not_refused() -> None:
    refuse_engine(good_config())
    mixture = good_config()
    mixture.model_config.is_moe = True
    refuse_engine(mixture)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("model_config.enforce_eager", False, "not in eager mode.*set enforce_eager=True"),
        ("model_config.logprobs_mode", "raw_logprobs", "set logprobs_mode='processed_logprobs'"),
        ("parallel_config.pipeline_parallel_size", 2, "set pipeline_parallel_size=1"),
        ("speculative_config", object(), "leave speculative_config out"),
        ("kv_transfer_config", object(), "leave kv_transfer_config out"),
        ("compilation_config.fast_moe_cold_start", True, "set compilation_config={'fast_moe_cold_start': False}"),
    ],
)
def test_an_engine_that_would_be_wrong_is_refused_by_its_workers(path: str, value: object, reason: str) -> None:
    config, model = good_config(), model_of(Layer(1.0), Layer(2.0))
    config.model_config.is_moe = path.endswith("cold_start")
    *parents, last = path.split(".")
    setattr(getattr(config, parents[0]) if parents else config, last, value)
    with pytest.raises(ValueError, match=reason) as refused:
        refuse_engine(config)
    assert "\n" not in str(refused.value)
    worker = NestedWorker()
    worker.vllm_config, worker.model_runner = config, SimpleNamespace(get_model=lambda: model)
    assert worker.nested_skip("1") == str(refused.value)
    assert output(model) == 6, "every layer runs"


def test_a_dense_model_needs_no_setting_for_experts() -> None:
    config = good_config()
    config.compilation_config.fast_moe_cold_start = True
    refuse_engine(config)


def loading_worker(layers: int = 2) -> tuple[NestedWorker, dict[str, Tensor], list[Any]]:
    """A worker of a tiny model with a tied head, the model's weights, and what was loaded into it."""
    model = tiny_model("qwen2", layers=layers)
    loaded: list[Any] = []
    worker = NestedWorker()
    worker.vllm_config = SimpleNamespace(model_config=SimpleNamespace(hf_config=copy.copy(model.config)))
    worker.model_runner = SimpleNamespace(
        get_model=lambda: nn.Module(), reload_weights=lambda weights_iterator: loaded.extend(weights_iterator)
    )
    return worker, {name: parameter.detach() for name, parameter in model.named_parameters()}, loaded


def test_only_the_whole_model_is_loaded() -> None:
    worker, weights, loaded = loading_worker()
    name = "model.layers.1.mlp.up_proj.weight"
    assert f"no '{name}'" in worker.nested_load({key: value for key, value in weights.items() if key != name})
    assert "has shape (3, 2), not (32, 16)" in worker.nested_load({**weights, name: torch.ones(3, 2)})
    assert loaded == []
    assert worker.nested_load(weights) == ""
    assert dict(loaded).keys() == weights.keys()


def test_a_folder_is_loaded_with_all_its_files(tmp_path: Path) -> None:
    worker, weights, loaded = loading_worker()
    assert worker.nested_load_folder(str(tmp_path)) == f"no *.safetensors in {tmp_path}"
    names = list(weights)
    for number, part in enumerate((names[:3], names[3:])):
        save_file({name: weights[name].contiguous() for name in part}, tmp_path / f"{number}.safetensors")
    assert worker.nested_load_folder(str(tmp_path)) == ""
    assert all(torch.equal(dict(loaded)[name], weights[name]) for name in names)
