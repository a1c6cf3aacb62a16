"""Shards and the replica that samples, in a process group of one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from tiny_training import DTYPES, rollout_of, tiny_policy

from nested_reft.engine.logp import completion_logp
from nested_reft.training.accumulation import logp_in
from nested_reft.training.sharding import copy_weights, full_tensor, shard
from nested_reft.training.world import SINGLE_PROCESS


@pytest.fixture(autouse=True)
def _process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("dtype", DTYPES)
def test_shards_stay_float32_and_the_replica_has_the_dtype_of_products(dtype: str) -> None:
    model, products = tiny_policy().model, getattr(torch, dtype)
    before = {name: value.clone() for name, value in model.named_parameters()}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    assert buffers, "the rotary frequencies"
    replica = shard(model, dtype, SINGLE_PROCESS)
    for name, value in model.named_parameters():
        assert torch.equal(full_tensor(value), before[name])
    assert {value.dtype for value in replica.parameters()} == {products}
    for found in (model, replica):  # a frequency in bfloat16 is wrong by up to 0.4 %: at position 1000, by 4 radians
        assert all(torch.equal(value, buffers[name]) for name, value in found.named_buffers())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_replica_samples_what_the_shards_compute_after_an_update_too(dtype: str) -> None:
    policy, (_, rollout) = tiny_policy(), rollout_of(tiny_policy(), skip=0)
    sharded = policy.model
    replica = shard(sharded, dtype, SINGLE_PROCESS)
    rounding = 1e-5 if dtype == "float32" else 0.15  # of hidden states, at logits of up to 20
    found = []
    for _ in range(2):
        copy_weights(sharded, replica)
        with torch.no_grad():
            found.append(completion_logp(replica, rollout, 1.0))
        logp = logp_in(dtype, sharded, rollout, 1.0)
        torch.testing.assert_close(logp, found[-1], rtol=0, atol=rounding)
        logp.sum().backward()
        for parameter in sharded.parameters():
            assert parameter.grad is not None
            assert parameter.grad.dtype == torch.float32
            with torch.no_grad():
                parameter.add_(parameter.grad, alpha=0.01)
    assert (found[1] - found[0]).abs().max() > 3 * rounding
