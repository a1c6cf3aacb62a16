"""What a GPU computes is what the CPU computes, up to rounding; skipped on a machine without a GPU."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny_models import padded_prompts, tiny_model
from tiny_training import rollout_of, run, step_on, tiny_policy, tiny_settings
from torch import Tensor

from nested_reft.core.layers import nested_view
from nested_reft.engine.layer_influence import ablation_influence, layer_influence
from nested_reft.engine.logp import completion_logp
from nested_reft.engine.sampling import sample_completions
from nested_reft.rollouts.policy import Policy
from nested_reft.training.stopping import StoppedError

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
PROMPTS = (3, 6, 1)  # lengths, so that two of three are padded


def on_gpu(policy: Policy) -> Policy:
    """A copy of the policy on the GPU."""
    return Policy(copy.deepcopy(policy.model).to("cuda"), policy.tokenizer, policy.end_ids, policy.pad_id)


@pytest.mark.parametrize("skipped", [(), (1, 3)])
@pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma2"])
def test_the_kept_logp_is_the_cpu_model_s(kind: str, skipped: tuple[int, ...]) -> None:
    model = tiny_model(kind)
    ids, mask = padded_prompts(PROMPTS)
    view = nested_view(copy.deepcopy(model).to("cuda"), skipped)
    rollout = sample_completions(
        view, ids.cuda(), mask.cuda(), group_size=4, max_new_tokens=9, temperature=0.7, end_ids=(1,), pad_id=0,
        generator=torch.Generator("cuda").manual_seed(3),
    )  # fmt: skip
    with torch.no_grad():
        expected = completion_logp(nested_view(model, skipped), rollout.to("cpu"), temperature=0.7)
    torch.testing.assert_close(rollout.logp.cpu(), expected * rollout.mask.cpu(), rtol=0, atol=1e-4)
    assert len(set(map(tuple, rollout.tokens.tolist()))) > 4  # the prompts have different completions


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_greedy_completions_are_the_cpu_s(kind: str) -> None:
    model, (ids, mask) = tiny_model(kind), padded_prompts(PROMPTS)
    options = {"group_size": 1, "max_new_tokens": 9, "temperature": 0.0, "end_ids": (), "pad_id": 0}
    expected = sample_completions(model, ids, mask, **options).tokens
    found = sample_completions(copy.deepcopy(model).to("cuda"), ids.cuda(), mask.cuda(), **options).tokens
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("measure", [ablation_influence, layer_influence])
def test_influence_is_the_cpu_s(measure: object) -> None:
    model, (ids, mask) = tiny_model("llama"), padded_prompts(PROMPTS)
    expected = measure(model, ids, mask)  # type: ignore[operator]
    found = measure(copy.deepcopy(model).to("cuda"), ids.cuda(), mask.cuda())  # type: ignore[operator]
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("correction", ["base", "unit", "retrace"])
@pytest.mark.parametrize("micro_batch", [None, 2])
def test_an_update_is_the_cpu_s(correction: str, micro_batch: int | None) -> None:
    settings = tiny_settings(correction=correction, problems_per_micro_batch=micro_batch)
    policy = tiny_policy()
    _, rollout = rollout_of(policy)
    graded = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0]])

    def updated(policy: Policy, device: str) -> tuple[dict[str, float], dict[str, Tensor]]:
        optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.1)
        metrics = step_on(policy, rollout.to(device), graded.to(device), settings, optimizer)
        return metrics, {name: tensor.cpu() for name, tensor in policy.model.state_dict().items()}

    before = copy.deepcopy(policy.model.state_dict())
    found = updated(on_gpu(policy), "cuda")
    expected = updated(policy, "cpu")
    assert found[0] == pytest.approx(expected[0], rel=1e-3, abs=1e-5)
    for name, tensor in expected[1].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=0, atol=1e-5)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in expected[1].items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_goes_on_after_an_interruption(dtype: str, tmp_path: Path) -> None:
    settings = tiny_settings(dtype=dtype)
    whole = run(tmp_path / "whole", settings, policy=on_gpu(tiny_policy())).state
    with pytest.raises(StoppedError, match="after step 3"):
        run(tmp_path / "cut", settings, policy=on_gpu(tiny_policy()), stops_after=3)
    continued = run(tmp_path / "cut", settings, policy=on_gpu(tiny_policy())).state
    assert [row["skipped_layers"] for row in continued.metrics] == [row["skipped_layers"] for row in whole.metrics]
    for quantity in ("reward", "completion_length", "grad_norm"):
        found, expected = ([row[quantity] for row in state.metrics] for state in (continued, whole))
        assert found == pytest.approx(expected, rel=0.05), quantity
    assert all(0 < row["ess"] <= 1 for row in whole.metrics)
