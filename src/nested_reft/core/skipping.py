"""Layer skipping: which layers a behaviour model leaves out, and the behaviour model as a view of the target.

The view is what makes rollouts *nested*: it is the target with fewer layers, and every parameter of it is the
target's own tensor. Making one costs no memory and no copy, so that layers can be drawn anew for each batch.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


def count_and_eligible(num_layers: int, skip_percent: int, border: int) -> tuple[int, range]:
    """How many layers to leave out, and from which: k = round(skip_percent / 100 * num_layers), and the indices of
    the layers not within `border` of either end.

    Raises ValueError for a share outside [0, 100), a negative border, or fewer than k layers to choose from.
    """
    if not 0 <= skip_percent < 100:
        raise ValueError(f"skip_percent must be in [0, 100), got {skip_percent}")
    if border < 0:
        raise ValueError(f"border must not be negative, got {border}")
    count, eligible = round(skip_percent / 100 * num_layers), range(border, num_layers - border)
    if count > len(eligible):
        raise ValueError(
            f"skip_percent {skip_percent} leaves out {count} of {num_layers} layers, but border {border} leaves only "
            f"{len(eligible)} to choose from"
        )
    return count, eligible


def draw_skipped_layers(
    num_layers: int, skip_percent: int, border: int, generator: torch.Generator | None
) -> tuple[int, ...]:
    """Draw the layers to leave out, uniformly without replacement from those not within `border` of either end.

    Returns k = round(skip_percent / 100 * num_layers) ascending layer indices. Raises ValueError where `border`
    leaves fewer than k layers to choose from.
    """
    count, eligible = count_and_eligible(num_layers, skip_percent, border)
    if count == 0:
        return ()
    chosen = torch.randperm(len(eligible), generator=generator)[:count] + border
    return tuple(sorted(chosen.tolist()))


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The list of decoder layers of a causal language model; ValueError where the architecture has none."""
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(f"{type(model).__name__} has no list of decoder layers at base_model.layers")
    return layers


def nested_view(model: PreTrainedModel, skipped: Collection[int]) -> PreTrainedModel:
    """The model without the `skipped` layers, as a view: every parameter is the very tensor of `model`.

    The module objects are the view's own, down to their registries of hooks and their mode: what is done to the
    view's modules (a hook, `eval()`, the index under which a layer keeps its keys and values) does not reach the
    target, so that it can be trained and sampled at the same time. Hooks and mode are the target's as of now.
    With nothing skipped the view computes what the target computes, bit for bit.

    Raises ValueError for an index that is not a layer, where no layer would be left, for an architecture whose
    layers cannot be left out one by one, and for a module whose forward was replaced on the object.
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
    """A copy of the config for the kept layers alone; its other entries are the target's own objects."""
    smaller = copy.copy(config)
    for name, value in list(vars(config).items()):
        # One entry a layer, such as which attention (full or sliding) it has; forward and the cache read them by
        # position. Lists of another length are something else (layers of a draft head, indices of dense layers).
        if "layer" in name and isinstance(value, list | tuple) and len(value) == num_layers:
            setattr(smaller, name, [value[index] for index in kept])
    smaller.num_hidden_layers = len(kept)
    return smaller


def _refuse_bound_layers(model: PreTrainedModel) -> None:
    """ValueError where a layer's work depends on its number or on another layer: a view would be silently wrong."""
    config = model.config
    reasons = {
        "layers that read another layer's keys and values": getattr(config, "num_kv_shared_layers", 0)
        or (isinstance(getattr(type(config), "kv_sharing_modes", None), property) and any(config.kv_sharing_modes)),
        "an input of its own for each layer": getattr(config, "hidden_size_per_layer_input", 0),
        "a config of its own for each layer": getattr(config, "is_heterogeneous", False),
        "layer types computed from the layer's number": any(
            isinstance(getattr(type(config), name, None), property) for name in ("layer_types", "layers_block_type")
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"{type(model).__name__} has {reason}; its layers cannot be left out one by one")


def _twin(module: nn.Module) -> Any:
    """A copy of the module and its children: the same tensors, in objects and registries of the copy's own."""
    if "forward" in vars(module):
        # accelerate's dispatch does so; the copy would call the original's forward, which runs every layer.
        raise ValueError(f"{type(module).__name__} has a forward that was replaced on the object: no view of it")
    twin: Any = object.__new__(type(module))
    # Registries: parameters, buffers, children and a dozen kinds of hooks.
    own = {name: value.copy() if isinstance(value, (dict, set)) else value for name, value in vars(module).items()}
    twin.__dict__.update(own)
    for name in ("_compiled_call_impl", "_compiled_call"):
        twin.__dict__.pop(name, None)  # bound to the original, as a replaced forward
    for name, child in module._modules.items():
        if child is not None:
            twin._modules[name] = _twin(child)
    return twin
