"""Nested rollouts in vLLM: an engine that leaves out some of its decoder layers, switched between two generate calls.

    llm = vllm.LLM(name, **engine_arguments())
    nest(llm, skipped)  # from here on `llm` samples from `nested_view(model, skipped)`; () is the whole model

vLLM mixes `NestedWorker` (`vllm_worker.py`) into its workers. Nothing here imports vLLM, which may run in another
process or on another machine. Written for vLLM 0.32; docs/vllm.md says what was measured.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nested_reft.integrations.vllm_worker import LOGPROBS_MODE, NestedWorker

__all__ = [
    "WORKER_EXTENSION",
    "NestedWorker",
    "engine_arguments",
    "load_weights",
    "load_weights_server",
    "nest",
    "nest_server",
]

WORKER_EXTENSION = f"{__name__}.{NestedWorker.__name__}"


def engine_arguments() -> dict[str, Any]:
    """The arguments that a nested engine needs: of `vllm.LLM`, and, as options, of `vllm serve`.

    Without `generation_config`, requests that leave it open would get top-p, top-k or a repetition penalty from the
    model's own file, and log-probabilities that the trained model's cannot be compared with.
    """
    return {
        "enforce_eager": True,
        "worker_extension_cls": WORKER_EXTENSION,
        "logprobs_mode": LOGPROBS_MODE,
        "generation_config": "vllm",
    }


def nest(llm: Any, skipped: Collection[int]) -> None:
    """Let an in-process engine leave these layers out from now on, and drop its prefix cache.

    Args:
        llm: a `vllm.LLM` that was made with `engine_arguments()`.
        skipped: indices of the layers to leave out, from 0; () for the whole model.

    Raises:
        ValueError: the engine or the model does not allow it, an index is not a layer, or no layer would be left. The
            layers stay as they were.
        RuntimeError: requests are still running.
    """
    _require_idle(llm)
    _raise_refusal(llm.collective_rpc("nested_skip", args=(_joined(skipped),)))


def load_weights(llm: Any, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Hand the trained model's weights to an in-process engine, and drop its prefix cache. Skipped layers stay skipped.

    Args:
        llm: a `vllm.LLM` that was made with `engine_arguments()`, in a process with VLLM_ENABLE_V1_MULTIPROCESSING=0:
            tensors do not pass to another process.
        named_tensors: every parameter by its name in transformers, as `model.named_parameters()` has them.

    Raises:
        ValueError: a parameter is missing or has another shape. The weights stay as they were.
        RuntimeError: requests are still running, or the engine runs in another process.
    """
    _require_idle(llm)
    if getattr(llm.llm_engine, "model_executor", None) is None:
        raise RuntimeError("the engine runs in another process; set VLLM_ENABLE_V1_MULTIPROCESSING=0 before vllm.LLM()")
    weights = {name: tensor.detach() for name, tensor in named_tensors}
    _raise_refusal(llm.collective_rpc("nested_load", args=(weights,)))


def nest_server(url: str, skipped: Collection[int], timeout_s: float = 600.0) -> None:
    """Let a server leave these layers out from now on. Waits for running requests; new ones wait until it is done.

    Args:
        url: of a `vllm serve` with the options of `engine_arguments()` and VLLM_SERVER_DEV_MODE=1 in its environment,
            such as http://localhost:8000. With that variable anyone who reaches the server controls it.
        skipped: as in `nest`.
        timeout_s: the longest wait for an answer, in seconds.

    Raises:
        ValueError: as in `nest`.
        RuntimeError: the server does not answer, or answers with an error.
    """
    _call_server(url, "nested_skip", _joined(skipped), timeout_s)


def load_weights_server(url: str, folder: str | os.PathLike[str], timeout_s: float = 600.0) -> None:
    """Let a server read the trained model's weights from a folder. Skipped layers stay skipped.

    Args:
        url: as in `nest_server`.
        folder: where `model.save_pretrained` wrote the weights; the server must see it under the same path.
        timeout_s: as in `nest_server`.

    Raises:
        ValueError: a parameter is missing or has another shape, or there are no weights in the folder.
        RuntimeError: the server does not answer, or answers with an error.
    """
    _call_server(url, "nested_load_folder", str(Path(folder).absolute()), timeout_s)


def _joined(skipped: Collection[int]) -> str:
    """The indices as text, since a server's workers are called with text only."""
    return ",".join(str(int(index)) for index in skipped)


def _require_idle(llm: Any) -> None:
    """Drop the prefix cache, whose keys and values are those of other layers or weights; raise if it is in use."""
    engine = llm.llm_engine
    if engine.vllm_config.parallel_config.worker_extension_cls != WORKER_EXTENSION:
        raise ValueError("the engine's workers cannot nest: make it by vllm.LLM(..., **engine_arguments())")
    if engine.has_unfinished_requests() or not llm.reset_prefix_cache():
        raise RuntimeError("requests are still running: their keys and values are those of other layers or weights")


def _raise_refusal(answers: Iterable[str]) -> None:
    """ValueError with the first worker's reason, if there is one."""
    for answer in answers:
        if answer:
            raise ValueError(answer)


def _call_server(url: str, method: str, argument: str, timeout_s: float) -> None:
    """Call a method of the server's workers while no request runs, after its prefix cache was dropped."""
    _post(url, "/pause?mode=wait", timeout_s)
    try:
        if not _post(url, "/reset_prefix_cache", timeout_s)["success"]:
            raise RuntimeError("requests are still running: their keys and values are those of other layers or weights")
        answer = _post(url, "/collective_rpc", timeout_s, {"method": method, "args": [argument]})
    finally:
        _post(url, "/resume", timeout_s)
    _raise_refusal(answer["results"])


def _post(url: str, path: str, timeout_s: float, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The server's answer to a POST request; RuntimeError if it has none or an error."""
    request = urllib.request.Request(
        url.rstrip("/") + path, json.dumps(body or {}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            found: dict[str, Any] = json.load(response)
    except urllib.error.HTTPError as error:
        hints = {404: "VLLM_SERVER_DEV_MODE=1", 500: f"--worker-extension-cls {WORKER_EXTENSION}"}
        hint = f"; was it started with {hints[error.code]}?" if error.code in hints else ""
        raise RuntimeError(f"{request.full_url} answered {error.code} {error.reason}{hint}") from error
    except OSError as error:
        raise RuntimeError(f"{request.full_url} did not answer: {error}") from error
    return found
