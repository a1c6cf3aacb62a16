"""Layer skipping: which layers a behaviour model leaves out, and the behaviour model as a view of the target.

The view is what makes rollouts *nested*: it is the target with fewer layers, and every parameter of it is the
target's own tensor. Making one costs no memory and no copy, so that layers can be drawn anew for each batch.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def draw_skipped_layers(
    num_layers: int, skip_percent: int, border: int, generator: torch.Generator | None
) -> tuple[int, ...]:
    """Draw the layers to leave out, uniformly without replacement from those not within `border` of either end.

    Returns k = round(skip_percent / 100 * num_layers) ascending layer indices. Raises ValueError where `border`
    leaves fewer than k layers to choose from.
    """
    if not 0 <= skip_percent < 100:
        raise ValueError(f"skip_percent must be in [0, 100), got {skip_percent}")
    if border < 0:
        raise ValueError(f"border must not be negative, got {border}")
    count, eligible = round(skip_percent / 100 * num_layers), max(num_layers - 2 * border, 0)
    if count > eligible:
        raise ValueError(
            f"skip_percent {skip_percent} leaves out {count} of {num_layers} layers, but border {border} leaves only "
            f"{eligible} to choose from"
        )
    if count == 0:
        return ()
    chosen = torch.randperm(eligible, generator=generator)[:count] + border
    return tuple(sorted(chosen.tolist()))


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The list of decoder layers of a causal language model; ValueError where the architecture has none."""
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(f"{type(model).__name__} has no list of decoder layers at base_model.layers")
    return layers


def nested_view(model: PreTrainedModel, skipped: Collection[int]) -> PreTrainedModel:
    """The model without the `skipped` layers, as a view: every parameter is the very tensor of `model`.

    The view has its own module objects where something differs (the list of layers, the index under which a layer
    keeps its keys and values, the config's per-layer entries), and the target is not touched: no hook, no flag,
    so that it can be trained and sampled at the same time. With nothing skipped the view computes what the target
    computes, bit for bit. Raises ValueError for an index that is not a layer, or where no layer would be left.
    """
    layers = decoder_layers(model)
    unknown = sorted(index for index in skipped if not 0 <= index < len(layers))
    if unknown:
        raise ValueError(f"skipped has {unknown}, but the model's layers are 0 to {len(layers) - 1}")
    kept = [index for index in range(len(layers)) if index not in set(skipped)]
    if not kept:
        raise ValueError("skipped names every layer; at least one must be left")

    config = copy.copy(model.config)
    for name, value in list(vars(config).items()):
        # One entry a layer, such as which attention (full or sliding) it has; forward reads them by position.
        if name.endswith("layer_types") and isinstance(value, list | tuple):
            setattr(config, name, [value[index] for index in kept])
    config.num_hidden_layers = len(kept)

    view_layers = nn.ModuleList()
    for position, index in enumerate(kept):
        view_layers.append(_with_cache_index(layers[index], position))

    view = _shallow(model)
    view.config = config
    if model.base_model is model:
        view.layers = view_layers
        return view
    base = _shallow(model.base_model)
    base.config = config
    base.layers = view_layers
    setattr(view, model.base_model_prefix, base)
    return view


def _shallow(module: nn.Module) -> Any:
    """A copy of the module object alone: same parameters, buffers and children, in dictionaries of its own."""
    twin = copy.copy(module)
    for registry in ("_parameters", "_buffers", "_modules"):
        setattr(twin, registry, dict(getattr(module, registry)))
    return twin


def _with_cache_index(module: nn.Module, position: int) -> Any:
    """The layer under another index of the key-value cache; modules without an index are shared, not copied."""
    twin = _shallow(module)
    if hasattr(module, "layer_idx"):
        twin.layer_idx = position
    for name, child in module.named_children():
        if any(hasattr(part, "layer_idx") for part in child.modules()):
            twin._modules[name] = _with_cache_index(child, position)
    return twin
