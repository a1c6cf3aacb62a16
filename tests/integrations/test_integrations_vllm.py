"""Nested vLLM without vLLM: what the worker does to layers of vLLM's kind, what is refused, and in which order a switch
happens. What the real engine computes is tested in tests/vllm_engine.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import tiny_model
from torch import Tensor, nn

from nested_reft.integrations import vllm as nested_vllm
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
        parallel_config=SimpleNamespace(
            pipeline_parallel_size=1, worker_extension_cls=nested_vllm.WORKER_EXTENSION
        ),
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


def test_the_extension_is_found_by_its_name_and_hides_nothing_of_a_worker() -> None:
    module, _, name = nested_vllm.WORKER_EXTENSION.rpartition(".")
    assert module == nested_vllm.__name__
    assert getattr(nested_vllm, name) is NestedWorker
    assert nested_vllm.engine_arguments()["worker_extension_cls"] == nested_vllm.WORKER_EXTENSION
    assert all(attribute.startswith(("nested_", "__")) for attribute in dir(NestedWorker))


class Engine:
    """Stands for a `vllm.LLM`; keeps what was asked of it, in order."""

    def __init__(self, *, unfinished: bool = False, resets: bool = True, answer: str = "") -> None:
        self.asked: list[Any] = []
        self.resets, self.answer = resets, answer
        self.llm_engine = SimpleNamespace(
            vllm_config=good_config(), has_unfinished_requests=lambda: unfinished, model_executor=object()
        )

    def reset_prefix_cache(self) -> bool:
        self.asked.append("reset")
        return self.resets

    def collective_rpc(self, method: str, args: tuple[Any, ...]) -> list[str]:
        self.asked.append((method, *args))
        return ["", self.answer]


def test_the_prefix_cache_is_dropped_before_a_switch_and_before_new_weights() -> None:
    engine, weights = Engine(), {"w": torch.ones(1)}
    nested_vllm.nest(engine, (4, 1))
    nested_vllm.nest(engine, ())
    nested_vllm.load_weights(engine, weights.items())
    assert engine.asked == [
        "reset",
        ("nested_skip", "4,1"),
        "reset",
        ("nested_skip", ""),
        "reset",
        ("nested_load", weights),
    ]


@pytest.mark.parametrize("engine", [Engine(unfinished=True), Engine(resets=False)])
def test_nothing_is_switched_or_loaded_while_requests_run(engine: Engine) -> None:
    for change in (lambda: nested_vllm.nest(engine, (1,)), lambda: nested_vllm.load_weights(engine, [])):
        with pytest.raises(RuntimeError, match="requests are still running"):
            change()
    assert set(engine.asked) <= {"reset"}


def test_a_worker_s_refusal_an_engine_without_workers_and_one_elsewhere_are_errors() -> None:
    with pytest.raises(ValueError, match="no such thing"):
        nested_vllm.nest(Engine(answer="no such thing"), (1,))
    plain = Engine()
    plain.llm_engine.vllm_config.parallel_config.worker_extension_cls = ""
    with pytest.raises(ValueError, match=r"make it by vllm.LLM\(..., \*\*engine_arguments\(\)\)"):
        nested_vllm.nest(plain, (1,))
    elsewhere = Engine()
    del elsewhere.llm_engine.model_executor
    with pytest.raises(RuntimeError, match="set VLLM_ENABLE_V1_MULTIPROCESSING=0"):
        nested_vllm.load_weights(elsewhere, [])
    assert plain.asked == []


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


class Server:
    """Stands for `vllm serve` in development mode; `answers` replaces its answer to a path, by code and body."""

    def __init__(self, answers: dict[str, tuple[int, Any]]) -> None:
        self.asked: list[Any] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked.append((self.path, *body.get("args", [])))
                path = self.path.partition("?")[0]
                usual = {"/reset_prefix_cache": {"success": True}, "/collective_rpc": {"results": [""]}}
                code, answer = answers.get(path, (200, usual.get(path, {})))
                self.send_response(code)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def serve() -> Iterator[Any]:
    running = []

    def start(answers: dict[str, tuple[int, Any]] | None = None) -> Server:
        server = Server(answers or {})
        running.append(server.http)
        threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield start
    for http in running:
        http.shutdown()
        http.server_close()


PAUSE, RESET, RESUME = ("/pause?mode=wait",), ("/reset_prefix_cache",), ("/resume",)


def test_a_server_is_switched_between_a_pause_and_a_resume(serve: Any, tmp_path: Path) -> None:
    server = serve()
    nested_vllm.nest_server(server.url + "/", (5, 2))
    assert server.asked == [PAUSE, RESET, ("/collective_rpc", "5,2"), RESUME]
    nested_vllm.load_weights_server(server.url, tmp_path)
    assert server.asked[6:] == [("/collective_rpc", str(tmp_path)), RESUME]


@pytest.mark.parametrize(
    ("answers", "kind", "reason", "asked"),
    [
        ({"/collective_rpc": (200, {"results": ["", "not so"]})}, ValueError, "^not so$", 4),
        ({"/reset_prefix_cache": (200, {"success": False})}, RuntimeError, "requests are still running", 3),
        ({"/pause": (404, {})}, RuntimeError, "answered 404 .*VLLM_SERVER_DEV_MODE=1", 1),
        ({"/collective_rpc": (500, {})}, RuntimeError, "answered 500 .*--worker-extension-cls nested_reft", 4),
    ],
)
def test_a_server_that_refuses_or_fails_goes_on(
    serve: Any, answers: dict[str, Any], kind: type[Exception], reason: str, asked: int
) -> None:
    server = serve(answers)
    with pytest.raises(kind, match=reason):
        nested_vllm.nest_server(server.url, (1,))
    assert len(server.asked) == asked
    assert server.asked[-1] == (RESUME if asked > 1 else PAUSE)


def test_a_server_that_is_not_there_is_one_line(serve: Any) -> None:
    server = serve()
    server.http.socket.close()
    with pytest.raises(RuntimeError, match=r"^http://127.0.0.1:\d+/pause\?mode=wait did not answer: .*$"):
        nested_vllm.nest_server(server.url, (1,), timeout_s=1.0)
