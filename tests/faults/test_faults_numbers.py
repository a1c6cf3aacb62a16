"""Numbers that are none stop the run with step, batch and advice; degenerate batches are handled as documented."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from faults_harness import Run, at_call, one_line
from safetensors import safe_open
from safetensors.torch import load_file

from nested_reft.config.reward import Reward
from nested_reft.config.sampling import Sampling
from nested_reft.core.advantages import group_advantages
from nested_reft.core.corrections import CORRECTIONS
from nested_reft.core.loss import Objective, policy_loss
from nested_reft.data.records import Problem
from nested_reft.rollouts import rewards
from nested_reft.rollouts.policy import load_policy
from nested_reft.rollouts.samplers import TorchSampler
from nested_reft.training import step


def spoil_loss(value: float) -> Callable[[], None]:
    """The first of two updates of step 5."""

    def spoilt(plain: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        loss, metrics = plain(*arguments, **options)
        return loss * value, metrics

    return at_call(step, "policy_loss", 9, spoilt)


def infinite_gradient(clip: Callable[..., torch.Tensor], parameters: Iterable[torch.Tensor], limit: float) -> Any:
    first, *others = parameters
    assert first.grad is not None
    first.grad[0, 0] = math.inf
    return clip([first, *others], limit)


spoil_gradient = at_call(torch.nn.utils, "clip_grad_norm_", 10, infinite_gradient)  # the second update of step 5
# There are two in a step.
spoil_logp = at_call(step, "target_logp", 9, lambda plain, *arguments: plain(*arguments) * math.nan)


@pytest.mark.parametrize(
    ("spoil", "loss"),
    [
        (spoil_loss(math.nan), "nan"),
        (spoil_loss(math.inf), "-?inf"),
        (spoil_gradient, "-?[0-9.e-]+"),
        (spoil_logp, "nan"),
    ],
    ids=["nan loss", "infinite loss", "infinite gradient", "nan log-probability"],
)
def test_what_is_not_finite_stops_the_run_with_step_batch_and_advice(
    run: Run, spoil: Callable[[], None], loss: str
) -> None:
    ended = run.call(spoil)
    assert ended.code == 1, ended.output
    line = one_line(ended.output)
    pattern = rf"skip34/seed1: step 5 has loss {loss} and gradient norm [^;]*; its batch is in (\S+)\. Lower training"
    found = re.search(pattern, line)
    assert found, line
    assert "or use a correction with bounded weights" in line

    path = Path(found[1])
    batch = load_file(path)
    assert batch["tokens"].shape == batch["logp"].shape == batch["mask"].shape
    assert len(batch["tokens"]) == 8
    assert batch["rewards"].shape == (2, 4)
    with safe_open(path, framework="pt") as file:
        assert len(json.loads(file.metadata()["skipped_layers"])) == 2
    assert not (run.folder / "out").exists(), "nothing of it lands in a table"


def test_the_run_can_go_on_after_the_cause_is_gone(run: Run, uninterrupted: Run) -> None:
    run.call(spoil_gradient)
    again = run.call()
    assert "continues after step 3\n" in again.output
    assert run.outcome()[1] == uninterrupted.outcome()[1]


# --- degenerate batches


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_equal_rewards_and_an_empty_completion_teach_nothing_and_the_others_still_do(correction: str) -> None:
    """(B, T) = (6, 3), three groups of two: equal rewards, an empty completion, and neither."""
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1]]).bool()
    advantages = group_advantages(torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]]))
    logp = (-torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).double()).requires_grad_()
    loss, _ = policy_loss(Objective(correction), logp, logp.detach() - 1e-4, mask, advantages, max_new_tokens=3)
    loss.backward()
    assert math.isfinite(loss.item())
    assert logp.grad is not None
    assert (logp.grad.abs().sum(dim=1) > 0).tolist() == [False, False, False, True, True, True]


def test_a_completion_cut_at_the_limit_is_graded_as_it_stands_and_all_its_tokens_count(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def grade(response: str, gold: str, answer: str) -> bool:
        asked.append(response)
        return response.startswith(gold)

    monkeypatch.setattr(rewards, "grade", grade)
    policy = load_policy(run.folder / "model", device=torch.device("cpu"))
    ids, mask = policy.batch([[4, 5, 6]])
    endless = TorchSampler(replace(policy, end_ids=()))
    cut = endless.sample((), ids, mask, Sampling(), group_size=2, max_new_tokens=4, seed=0)
    assert cut.mask.all()
    first = policy.responses(cut)[0]
    found = rewards.rollout_rewards(policy, cut, [Problem("1", "?", first)], Reward())
    assert asked == policy.responses(cut)
    assert found.tolist() == [[1.0, float(asked[1].startswith(first))]]
