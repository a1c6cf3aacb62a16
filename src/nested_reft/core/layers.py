"""The behaviour model as a view of the target: the same model without some of its layers.

The view is what makes rollouts *nested*: every parameter of it is the target's own tensor. Making one copies no weight
and costs no memory, so a new set of layers can be left out of every batch.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The list of decoder layers of a causal language model. Raises ValueError if the architecture has none."""
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(f"{type(model).__name__} has no list of decoder layers at base_model.layers")
    return layers


def nested_view(model: PreTrainedModel, skipped: Collection[int]) -> PreTrainedModel:
    """The model without the `skipped` layers, as a view: every parameter is the very tensor of `model`.

    The view has module objects of its own, with their own hooks and training mode: whatever is done to them (a hook,
    `eval()`, the index under which a layer stores its keys and values) does not reach the target, so the target can be
    trained and sampled at the same time. Hooks and mode start as the target's are now. With nothing skipped the view
    computes what the target computes, bit for bit.

    Args:
        model: a causal language model of transformers with a list of decoder layers.
        skipped: indices of the layers to leave out, from 0; () for a view of the whole model.

    Returns:
        A model of the same class with the other layers, in their order; its config says so too.

    Raises:
        ValueError: an index is not a layer, no layer would be left, the architecture does not allow leaving out single
            layers, or a module's `forward` was replaced on the object.
    """
    layers = decoder_layers(model)
    unknown = sorted(index for index in skipped if not 0 <= index < len(layers))
    if unknown:
        raise ValueError(f"skipped has {unknown}, but the model's layers are 0 to {len(layers) - 1}")
    kept = [index for index in range(len(layers)) if index not in set(skipped)]
    if not kept:
        raise ValueError("skipped names every layer; at least one must be left")
    if skipped:
        _refuse_bound_layers(model)

    view = _twin(model)
    base = view.base_model
    base.layers = nn.ModuleList(base.layers[index] for index in kept)
    for position, layer in enumerate(base.layers):
        for part in layer.modules():
            if "layer_idx" in vars(part):
                part.layer_idx = position
    view.config = base.config = _config_of(model.config, kept, len(layers))
    return view


def _config_of(config: PretrainedConfig, kept: Sequence[int], num_layers: int) -> PretrainedConfig:
    """A copy of the config for the kept layers only; its other entries are the target's own objects."""
    smaller = copy.copy(config)
    for name, value in list(vars(config).items()):
        # One entry per layer, such as its kind of attention (full or sliding); forward and the cache read them by
        # position. Lists of another length are something else (layers of a draft head, indices of dense layers).
        if "layer" in name and isinstance(value, list | tuple) and len(value) == num_layers:
            setattr(smaller, name, [value[index] for index in kept])
    smaller.num_hidden_layers = len(kept)
    return smaller


def _refuse_bound_layers(model: PreTrainedModel) -> None:
    """ValueError if what a layer computes depends on its number or on another layer: a view would be silently wrong."""
    config = model.config
    reasons = {
        "layers that read another layer's keys and values": getattr(config, "num_kv_shared_layers", 0)
        or (isinstance(getattr(type(config), "kv_sharing_modes", None), property) and any(config.kv_sharing_modes)),
        "a separate input for each layer": getattr(config, "hidden_size_per_layer_input", 0),
        "a separate config for each layer": getattr(config, "is_heterogeneous", False),
        "layer types computed from the layer's number": any(
            isinstance(getattr(type(config), name, None), property) for name in ("layer_types", "layers_block_type")
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"{type(model).__name__} has {reason}; its layers cannot be left out one by one")


def _twin(module: nn.Module) -> Any:
    """A copy of the module and its children that shares their tensors but no module object or hook registry."""
    if "forward" in vars(module):
        # accelerate's dispatch does this; the copy would call the original's forward, which runs every layer.
        raise ValueError(f"{type(module).__name__} has a forward that was replaced on the object: no view of it")
    twin: Any = object.__new__(type(module))
    # Registries: parameters, buffers, children and a dozen kinds of hooks.
    own = {name: value.copy() if isinstance(value, (dict, set)) else value for name, value in vars(module).items()}
    twin.__dict__.update(own)
    for name in ("_compiled_call_impl", "_compiled_call"):
        twin.__dict__.pop(name, None)  # bound to the original, like a replaced forward
    for name, child in module._modules.items():
        if child is not None:
            twin._modules[name] = _twin(child)
    return twin
