"""A sharded model: every process keeps a part of each weight, its gradient and its optimizer state (FSDP2).

A layer's weights are gathered only while it computes. A rollout reads every layer for every token, so a plain replica
in half the bytes samples it, which each update refreshes; nested views are views of the replica.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from nested_reft.core.layers import decoder_layers
from nested_reft.training.world import World


def shard(model: PreTrainedModel, dtype: str, world: World) -> PreTrainedModel:
    """Shard the model over the ranks, in place, to compute in `dtype`; returns a replica in that type.

    Gradients are sums over the ranks, as without sharding; they and the shards are float32.
    """
    replica, products = copy.deepcopy(model).requires_grad_(False), getattr(torch, dtype)
    for parameter in replica.parameters():  # not the buffers: rotary frequencies lose positions in bfloat16
        parameter.data = parameter.data.to(products)
    mesh = init_device_mesh(model.device.type, (world.size,))
    precision = MixedPrecisionPolicy(param_dtype=products, reduce_dtype=torch.float32)
    for module in (*decoder_layers(model), model):
        fully_shard(module, mesh=mesh, mp_policy=precision)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo supports no other
    return replica


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether it is sharded."""
    return isinstance(model, FSDPModule)


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor of a sharded one, on every rank (all must call it); any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, example: Tensor) -> Tensor:
    """A full tensor laid out like `example`: on its device, and only this rank's shard if `example` is sharded."""
    tensor = tensor.to(example.device)
    if isinstance(example, DTensor):
        return distribute_tensor(tensor, example.device_mesh, example.placements)
    return tensor


@torch.no_grad()
def copy_weights(sharded: PreTrainedModel, replica: PreTrainedModel) -> None:
    """Refresh the replica, in its own dtype; all ranks must call it."""
    for source, target in zip(sharded.parameters(), replica.parameters(), strict=True):
        target.copy_(full_tensor(source))
