"""The warm-up: its loss is of the solutions alone, its switches do what they say, an interruption changes nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import DTYPES, PROMPT, STORIES, tiny_policy
from torch.nn.functional import cross_entropy

from nested_reft.config.warmup import WarmupSettings, WarmupTraining
from nested_reft.core.layers import nested_view
from nested_reft.data.problems import generate_problems
from nested_reft.data.records import DataError, Problem
from nested_reft.rollouts.policy import Policy
from nested_reft.training.checkpoint import TrainingState
from nested_reft.training.loop import Job, NumericalError
from nested_reft.training.stopping import StoppedError
from nested_reft.training.warmup import dropped_layers, encode_solutions, learning_rate, warm_up


def settings(max_new_tokens: int = 20, dtype: str = "float32", **changes: Any) -> WarmupSettings:
    warmup = {
        "steps": 6, "solutions_per_batch": 4, "learning_rate": 0.01, "layer_drop": 0.3, "checkpoint_every": 2,
    } | changes  # fmt: skip
    return WarmupSettings(
        size="tiny", warmup=WarmupTraining.model_validate(warmup), prompt=PROMPT, border=1,
        max_new_tokens=max_new_tokens, max_prompt_tokens=100, dtype=dtype, gradient_checkpointing=False,
        device="cpu",
    )  # fmt: skip


def problems() -> list[Problem]:
    return generate_problems(STORIES, "warmup", "solved")


def run(folder: Path, policy: Policy, chosen: WarmupSettings, **more: Any) -> TrainingState:
    return warm_up(chosen, policy, encode_solutions(chosen, policy, problems()), Job(folder, **more))


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in policy.model.named_parameters()}


def test_generated_problems_have_their_solution_in_this_role_only() -> None:
    assert {problem.solution for problem in generate_problems(STORIES, "train", "solved")} == {None}
    assert all((p.solution or "").endswith(f"#### {p.answer}") for p in problems())


def test_the_loss_is_the_mean_cross_entropy_of_the_solutions_tokens(tmp_path: Path) -> None:
    """Computed here sequence by sequence on the nested view of the step, with nothing masked but the prompt."""
    policy, chosen = tiny_policy(), settings(steps=1, solutions_per_batch=10)
    layers = dropped_layers(chosen.warmup, 6, 1, 1)
    assert layers, "the seed draws a step on which a layer is left out"
    view = nested_view(policy.model, layers)
    losses = []
    for prompt, solution in encode_solutions(chosen, policy, problems()):
        assert solution[-1] == policy.end_ids[0]
        logits = view(torch.tensor([prompt + solution])).logits[0, len(prompt) - 1 : -1]
        losses += cross_entropy(logits, torch.tensor(solution), reduction="none").tolist()
    row = run(tmp_path, policy, chosen).metrics[0]
    assert row["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert row["dropped_layers"] == list(layers)


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 1e-5), ("bfloat16", 2**-9)])
def test_micro_batches_change_nothing_but_rounding(tmp_path: Path, dtype: str, rounding: float) -> None:
    whole, parts = tiny_policy(), tiny_policy()
    one = run(tmp_path / "whole", whole, settings(dtype=dtype, steps=1)).metrics[0]
    small = settings(dtype=dtype, steps=1, solutions_per_micro_batch=3)
    other = run(tmp_path / "parts", parts, small).metrics[0]
    assert one["loss"] == pytest.approx(other["loss"], rel=rounding)
    assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=10 * rounding)


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_learns(tmp_path: Path, dtype: str) -> None:
    metrics = run(
        tmp_path, tiny_policy(), settings(dtype=dtype, steps=60, layer_drop=0.0, checkpoint_every=100)
    ).metrics
    assert metrics[-1]["loss"] < 0.6 * metrics[0]["loss"]


def test_without_layer_drop_every_layer_is_trained_on_every_batch() -> None:
    options = settings(layer_drop=0.0).warmup
    assert {dropped_layers(options, 6, 1, step) for step in range(1, 100)} == {()}


def test_layers_are_dropped_with_their_probability_and_never_at_the_border() -> None:
    options = settings(layer_drop=0.25).warmup
    drawn = [layer for step in range(1, 2001) for layer in dropped_layers(options, 6, 1, step)]
    for layer in range(6):
        share = drawn.count(layer) / 2000
        # Five standard deviations of a share of 2,000 draws.
        assert share == (pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 2000)) if 1 <= layer <= 4 else 0)


def test_the_learning_rate_by_hand() -> None:
    options = settings(steps=4, learning_rate=1.0, warmup_steps=1).warmup
    assert [learning_rate(options, step) for step in (1, 2, 3, 4)] == pytest.approx(
        [0.5, 0.5 + math.sqrt(2) / 4, 0.5, 0.5 - math.sqrt(2) / 4]
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_interruption_changes_nothing(tmp_path: Path, dtype: str) -> None:
    whole, cut = tiny_policy(), tiny_policy()
    expected = run(tmp_path / "whole", whole, settings(dtype=dtype))
    calls = iter([False] * 3 + [True])
    with pytest.raises(StoppedError, match="tiny: stopped after step 3 of 6"):
        run(tmp_path / "cut", cut, settings(dtype=dtype), stop=lambda: next(calls))
    again = tiny_policy()
    done = run(tmp_path / "cut", again, settings(dtype=dtype))
    assert done.metrics == expected.metrics
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(again).items())


def test_solutions_longer_than_a_rollout_are_left_out() -> None:
    policy = tiny_policy()
    lengths = [len(solution) for _, solution in encode_solutions(settings(100), policy, problems())]
    most = sorted(lengths)[4]
    kept = encode_solutions(settings(most), policy, problems())
    assert len(kept) == sum(length <= most for length in lengths) < len(lengths)


def test_no_solution_short_enough_is_an_error() -> None:
    with pytest.raises(DataError, match=r"the shortest solution of the warm-up has \d+ tokens"):
        encode_solutions(settings(1), tiny_policy(), problems())


def test_a_problem_without_a_solution_is_an_error() -> None:
    with pytest.raises(DataError, match="problem 'x-0' of the warm-up has no solution"):
        encode_solutions(settings(), tiny_policy(), generate_problems(STORIES, "train", "x"))


def test_a_loss_that_is_not_finite_is_an_error_and_not_saved(tmp_path: Path) -> None:
    chosen = settings(learning_rate=1e30, layer_drop=0.0, checkpoint_every=1)
    with pytest.raises(NumericalError, match=r"tiny: step 2 of the warm-up has loss nan.*lower warmup.learning_rate"):
        run(tmp_path, tiny_policy(), chosen)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["step00000001.safetensors"]
