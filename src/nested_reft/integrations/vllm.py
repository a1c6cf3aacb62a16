"""Nested rollouts in vLLM: an engine that leaves out some of its decoder layers, switched between two generate calls.

    llm = vllm.LLM(name, **engine_arguments())
    nest(llm, skipped)  # from here on `llm` samples from `nested_view(model, skipped)`; () is the whole model

vLLM mixes `NestedWorker` into its workers. No weight is copied: the workers call a function that does nothing in place
of a skipped layer. This file does not import vLLM, which may run in another environment (`vllm serve`). It was written
for vLLM 0.32; docs/vllm.md says what was measured and why some engines are refused.
"""

from __future__ import annotations

import inspect
import json
import os
import urllib.error
import urllib.request
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WORKER_EXTENSION = "nested_reft.integrations.vllm.NestedWorker"
LOGPROBS_MODE = "processed_logprobs"  # of the distribution that is sampled from; `raw_logprobs` ignores the temperature


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


class NestedWorker:
    """What vLLM adds to each of its workers (`worker_extension_cls`). Answers are "", or why it was refused.

    An answer passes to other processes and over HTTP as it is, which an exception does not.
    """

    vllm_config: Any  # these two are the worker's own
    model_runner: Any

    def nested_skip(self, skipped: str) -> str:
        """Leave out these layers, indices joined by commas, from now on."""
        try:
            refuse_engine(self.vllm_config)
            set_skipped(self.model_runner.get_model(), {int(index) for index in skipped.split(",") if index})
        except ValueError as error:
            return str(error)
        return ""

    def nested_load(self, weights: Mapping[str, Tensor]) -> str:
        """Load these weights, by their names in transformers."""
        try:
            refuse_weights(self.vllm_config.model_config.hf_config, weights)
        except ValueError as error:
            return str(error)
        self.model_runner.reload_weights(weights_iterator=iter(weights.items()))
        _pack_again(self.model_runner.get_model())
        return ""

    def nested_load_folder(self, folder: str) -> str:
        """Load the weights of the safetensors files in this folder."""
        weights = dict(_saved_weights(Path(folder)))
        return self.nested_load(weights) if weights else f"no *.safetensors in {folder}"


def refuse_engine(config: Any) -> None:
    """ValueError with the first reason why an engine with this `VllmConfig` cannot run nested; its words name the fix.

    What is refused would sample from the whole model or report other log-probabilities, silently, or was never tried.
    """
    model, parallel = config.model_config, config.parallel_config
    reasons = {
        "vLLM is not in eager mode, and compiled code or CUDA graphs would run every layer: set enforce_eager=True":
            not model.enforce_eager,
        f"logprobs_mode is '{model.logprobs_mode}', not of the distribution that is sampled from: set "
        f"logprobs_mode='{LOGPROBS_MODE}'": model.logprobs_mode != LOGPROBS_MODE,
        "pipeline parallelism splits the list of layers: set pipeline_parallel_size=1":
            parallel.pipeline_parallel_size > 1,
        "speculative decoding drafts with another model: leave speculative_config out":
            config.speculative_config is not None,
        "a KV connector keeps keys and values of other layers: leave kv_transfer_config out":
            config.kv_transfer_config is not None,
        "fast_moe_cold_start finds experts by counting calls: set compilation_config={'fast_moe_cold_start': False}":
            bool(config.compilation_config.fast_moe_cold_start) and model.is_moe,
    }  # fmt: skip
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(reason)


def set_skipped(model: nn.Module, skipped: Collection[int]) -> None:
    """Let vLLM's model leave these layers out from now on. ValueError, and no change, if it cannot."""
    layers = getattr(getattr(model, "model", None), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(f"{type(model).__name__} has no list of decoder layers at model.layers")
    unknown = sorted(index for index in skipped if not 0 <= index < len(layers))
    if unknown:
        raise ValueError(f"skipped has {unknown}, but the model's layers are 0 to {len(layers) - 1}")
    if len(set(skipped)) == len(layers):
        raise ValueError("skipped names every layer; at least one must be left")
    if any(getattr(part, "kv_sharing_target_layer_name", None) for part in model.modules()):
        raise ValueError(f"{type(model).__name__} has layers that read another layer's keys and values")
    for layer in layers:
        _refuse_layer(layer)
    for index, layer in enumerate(layers):
        layer.__dict__.pop("forward", None)
        if index in skipped:
            layer.forward = _bypass


def _bypass(positions: Tensor, hidden_states: Tensor, residual: Tensor | None, **_: Any) -> tuple[Tensor, Any]:
    """What a skipped layer computes: nothing.

    A layer of vLLM hands on its output (N, D) and the residual stream before that output is added; the next layer, or
    the final norm, adds the two. Before the first layer the residual is None, which the next layer takes as its own
    beginning. Handing on both unchanged is the layer's absence, exactly.
    """
    return hidden_states, residual


def _refuse_layer(layer: nn.Module) -> None:
    """ValueError if `_bypass` cannot stand for this layer."""
    name = type(layer).__name__
    if vars(layer).get("forward", _bypass) is not _bypass:  # vLLM's offloading to the CPU does this
        raise ValueError(f"{name} has a forward that was replaced on the object: its layers cannot be left out")
    _, *parameters = inspect.signature(type(layer).forward).parameters.values()
    required = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    if required != ["positions", "hidden_states", "residual"]:
        raise ValueError(f"{name} is called with ({', '.join(required)}), not (positions, hidden_states, residual)")


def refuse_weights(hf_config: Any, weights: Mapping[str, Tensor]) -> None:
    """ValueError if these are not all parameters of the model with this config: vLLM loads a layer whole or garbled."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(hf_config)
    for name, parameter in model.named_parameters():
        if name not in weights:
            raise ValueError(f"the weights have no '{name}'; hand over all parameters of the model")
        if weights[name].shape != parameter.shape:
            raise ValueError(f"'{name}' has shape {tuple(weights[name].shape)}, not {tuple(parameter.shape)}")


def _pack_again(model: nn.Module) -> None:
    """Renew what vLLM derived from weights that a reload does not reach.

    On a CPU, matrices are packed for oneDNN when they are loaded. A reload packs what it loads; a head that is tied to
    the embedding is not loaded, and would keep the old weights.
    """
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if hasattr(module, "cpu_linear") and weight is not None and weight.numel():
            module.quant_method.process_weights_after_loading(module)


def _saved_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of all safetensors files of a folder."""
    from safetensors.torch import load_file

    for path in sorted(folder.glob("*.safetensors")):
        yield from load_file(path).items()


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
        hint = "; start it with VLLM_SERVER_DEV_MODE=1" if error.code == 404 else ""
        hint = f"; start it with --worker-extension-cls {WORKER_EXTENSION}" if error.code == 500 else hint
        raise RuntimeError(f"{request.full_url} answered {error.code} {error.reason}{hint}") from error
    except OSError as error:
        raise RuntimeError(f"{request.full_url} did not answer: {error}") from error
    return found
