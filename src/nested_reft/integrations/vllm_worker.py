"""What runs inside vLLM's workers: leaving out decoder layers, loading new weights, and what is refused.

No weight is copied: a function that does nothing is called in place of a skipped layer. vLLM itself is not imported;
the worker hands in its own objects.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LOGPROBS_MODE = "processed_logprobs"  # of the distribution that is sampled from; `raw_logprobs` ignores the temperature


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
            method: Any = module.quant_method
            method.process_weights_after_loading(module)


def _saved_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of all safetensors files of a folder."""
    from safetensors.torch import load_file

    for path in sorted(folder.glob("*.safetensors")):
        yield from load_file(path).items()
