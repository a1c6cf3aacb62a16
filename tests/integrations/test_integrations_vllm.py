"""Nested vLLM without vLLM: in which order a switch happens, in process and by a server, and what ends it.

What the real engine computes is tested in tests/vllm_engine.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nested_reft.integrations import vllm as nested_vllm
from nested_reft.integrations.vllm_worker import NestedWorker


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
        parallel = SimpleNamespace(worker_extension_cls=nested_vllm.WORKER_EXTENSION)
        self.llm_engine = SimpleNamespace(
            vllm_config=SimpleNamespace(parallel_config=parallel), has_unfinished_requests=lambda: unfinished,
            model_executor=object(),
        )  # fmt: skip

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
