"""A training run: what its draws depend on, its gradient, and that an interruption changes nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import TIMINGS, grade_by_checksum, tiny_policy, tiny_problems, tiny_settings
from torch import Tensor

from nested_reft.config.jobs import TrainSettings
from nested_reft.core.corrections import PARAMETERS
from nested_reft.core.loss import NORMALISATIONS
from nested_reft.core.rollout import Rollout
from nested_reft.tasks.policy import Policy
from nested_reft.training import trainer
from nested_reft.training.checkpoint import FILE, TrainingState, remove_checkpoint
from nested_reft.training.trainer import NumericalError, accumulate_gradient, batch_indices, nested_rollout, train


class InterruptionError(Exception):
    """Raised in the middle of a run, as a kill would be."""


@pytest.fixture(autouse=True)
def _cheap_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "grade", grade_by_checksum)


def run(
    folder: Path, settings: TrainSettings, *, stop_after: int | None = None, policy: Policy | None = None
) -> tuple[Policy, TrainingState, list[str]]:
    """Train a fresh tiny policy (or the given one); the log says how it started."""
    policy, log = policy or tiny_policy(), list[str]()

    def report(row: dict[str, Any], _: float) -> None:
        if row["step"] == stop_after:
            raise InterruptionError

    progress = train(settings, policy, tiny_problems(), folder, report, log.append)
    return policy, progress, log


def weights(policy: Policy) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in policy.model.named_parameters()}


def assert_same_weights(one: Policy, other: Policy) -> None:
    expected = weights(other)
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, expected[name]), name


def untimed(progress: TrainingState) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMINGS} for row in progress.metrics]


# --- continuing


@pytest.mark.parametrize(("stop", "resumed_from"), [(4, 4), (5, 4), (1, None), (6, 6)])
def test_an_interrupted_run_ends_exactly_like_an_uninterrupted_one(
    tmp_path: Path, stop: int, resumed_from: int | None
) -> None:
    settings = tiny_settings()
    whole, expected, _ = run(tmp_path / "whole", settings)
    with pytest.raises(InterruptionError):
        run(tmp_path / "cut", settings, stop_after=stop)
    continued, progress, log = run(tmp_path / "cut", settings)

    found = f"continues after step {resumed_from}" if resumed_from else "starts at step 1: no checkpoint"
    assert log == [found]
    assert_same_weights(continued, whole)
    assert untimed(progress) == untimed(expected)
    assert [row["step"] for row in progress.metrics] == [1, 2, 3, 4, 5, 6]
    before = weights(tiny_policy())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(whole).items()), "nothing was learnt"


def test_the_time_before_the_interruption_counts(tmp_path: Path) -> None:
    settings = tiny_settings()
    with pytest.raises(InterruptionError):
        run(tmp_path, settings, stop_after=4)
    _, progress, _ = run(tmp_path, settings)
    steps = sum(row["rollout_seconds"] + row["reward_seconds"] + row["update_seconds"] for row in progress.metrics)
    assert progress.seconds >= steps


def test_a_checkpoint_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    run(tmp_path, tiny_settings())
    other = tiny_settings(learning_rate=0.001)
    continued, progress, log = run(tmp_path, other)
    assert log == [f"starts at step 1: {tmp_path / FILE} belongs to other settings"]
    fresh, expected, _ = run(tmp_path / "fresh", other)
    assert_same_weights(continued, fresh)
    assert untimed(progress) == untimed(expected)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def fill_with_noise(path: Path) -> None:
    path.write_bytes(b"\x7fnot safetensors" * 100)


@pytest.mark.parametrize("damage", [truncate, empty, fill_with_noise])
def test_a_damaged_checkpoint_starts_the_run_over_and_says_so(tmp_path: Path, damage: Any) -> None:
    settings = tiny_settings()
    whole, expected, _ = run(tmp_path, settings)
    damage(tmp_path / FILE)
    again, progress, log = run(tmp_path, settings)
    assert len(log) == 1
    assert log[0].startswith(f"starts at step 1: {tmp_path / FILE} is damaged (")
    assert_same_weights(again, whole)
    assert untimed(progress) == untimed(expected)


def test_a_save_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    run(tmp_path, tiny_settings())
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    remove_checkpoint(tmp_path)
    assert not tmp_path.exists()


# --- what is drawn


def test_layers_are_drawn_anew_for_each_batch(tmp_path: Path) -> None:
    _, progress, _ = run(tmp_path, tiny_settings())
    drawn = [tuple(row["skipped_layers"]) for row in progress.metrics]
    assert all(len(layers) == 2 and set(layers) <= {1, 2, 3, 4} for layers in drawn)
    assert len(set(drawn)) > 2


def rollout_of(
    policy: Policy, *, skip: int = 34, seed: int = 1, step: int = 1, **training: Any
) -> tuple[tuple[int, ...], Rollout]:
    prompts = [[4, 5, 6], [7, 8, 9, 10, 11], [12], [13, 14]]
    return nested_rollout(policy, prompts, tiny_settings(**training).training, skip, seed, step)


def test_draws_depend_on_seed_and_step_alone() -> None:
    policy = tiny_policy()
    torch.manual_seed(1)
    first = rollout_of(policy)
    torch.manual_seed(2)
    again = rollout_of(policy)
    assert again[0] == first[0]
    assert torch.equal(again[1].tokens, first[1].tokens)
    by_seed = [rollout_of(policy, seed=seed)[0] for seed in range(1, 9)]
    by_step = [rollout_of(policy, step=step)[0] for step in range(1, 9)]
    assert len(set(by_seed)) > 2
    assert len(set(by_step)) > 2
    assert not torch.equal(rollout_of(policy, step=2, skip=0)[1].tokens, rollout_of(policy, step=1, skip=0)[1].tokens)
    assert not torch.equal(rollout_of(policy, seed=2, skip=0)[1].tokens, rollout_of(policy, seed=1, skip=0)[1].tokens)


def test_runs_of_one_seed_draw_the_same_layers_whatever_their_correction(tmp_path: Path) -> None:
    drawn = []
    for correction in ("base", "unit"):
        _, progress, _ = run(tmp_path / correction, tiny_settings(correction=correction))
        drawn.append([row["skipped_layers"] for row in progress.metrics])
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(("batch_size", "num_problems"), [(3, 12), (4, 10), (7, 5), (1, 3)])
def test_each_epoch_has_every_problem_exactly_once(batch_size: int, num_problems: int) -> None:
    steps = 3 * num_problems  # three times as many problems as there are, for each problem of a batch
    drawn = [index for step in range(1, steps + 1) for index in batch_indices(step, batch_size, num_problems, 5)]
    assert len(drawn) == steps * batch_size
    epochs = [tuple(drawn[first : first + num_problems]) for first in range(0, len(drawn), num_problems)]
    for epoch in epochs:
        assert Counter(epoch) == Counter(range(num_problems))
    assert len(set(epochs)) > 1, "the order is new in each epoch"


def test_the_order_of_problems_depends_on_the_seed() -> None:
    assert batch_indices(1, 8, 100, 1) == batch_indices(1, 8, 100, 1)
    assert batch_indices(1, 8, 100, 1) != batch_indices(1, 8, 100, 2)


# --- the gradient

REWARDS = torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1]])


def gradient(
    policy: Policy, rollout: Rollout, correction: str, **training: Any
) -> tuple[float, list[Tensor], dict[str, float]]:
    policy.model.zero_grad(set_to_none=True)
    loss, diagnostics = accumulate_gradient(
        policy, rollout, REWARDS, tiny_settings(**training).training, correction, dict(PARAMETERS[correction])
    )
    return loss, [parameter.grad.clone() for parameter in policy.model.parameters()], diagnostics


def largest(gradients: list[Tensor]) -> float:
    return max(gradient.abs().max().item() for gradient in gradients)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_at_skip_zero_all_corrections_are_one_and_the_same_method(normalisation: str) -> None:
    """With it, the baseline is the same whichever correction is written beside it."""
    policy = tiny_policy()
    skipped, rollout = rollout_of(policy, skip=0)
    assert skipped == ()
    _, expected, diagnostics = gradient(policy, rollout, "unit", normalisation=normalisation)
    assert largest(expected) > 0.01
    for name in ("ratio_min", "ratio_max", "ess", "weight_max"):
        assert diagnostics[name] == pytest.approx(1, abs=1e-5)
    for correction in PARAMETERS:
        _, actual, _ = gradient(policy, rollout, correction, normalisation=normalisation)
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * largest(expected))


def test_where_layers_are_skipped_the_corrections_differ() -> None:
    policy = tiny_policy()
    skipped, rollout = rollout_of(policy)
    assert len(skipped) == 2
    _, unit, diagnostics = gradient(policy, rollout, "unit")
    assert diagnostics["ratio_max"] > 1.2
    for correction in ("base", "retrace"):
        _, other, _ = gradient(policy, rollout, correction)
        assert max((one - two).abs().max().item() for one, two in zip(unit, other, strict=True)) > 0.01 * largest(unit)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("correction", ["base", "retrace", "is_sequence"])
def test_micro_batches_change_neither_gradient_nor_loss(normalisation: str, correction: str) -> None:
    policy = tiny_policy()
    _, rollout = rollout_of(policy)
    loss, expected, diagnostics = gradient(policy, rollout, correction, normalisation=normalisation)
    assert largest(expected) > 0.01
    for size in (1, 2, 3, 4, 9):
        part_loss, actual, part_diagnostics = gradient(
            policy, rollout, correction, normalisation=normalisation, problems_per_micro_batch=size
        )
        assert part_loss == pytest.approx(loss, abs=1e-6)
        assert part_diagnostics == pytest.approx(diagnostics, rel=1e-4, abs=1e-6)
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_equal_rewards_give_no_gradient() -> None:
    policy = tiny_policy()
    _, rollout = rollout_of(policy)
    loss, diagnostics = accumulate_gradient(policy, rollout, torch.ones(4, 4), tiny_settings().training, "unit", {})
    assert loss == 0
    assert all((parameter.grad == 0).all() for parameter in policy.model.parameters())
    assert diagnostics["weight_max"] == 1


# --- a run's metrics and errors


def test_the_metrics_of_a_step(tmp_path: Path) -> None:
    _, progress, _ = run(tmp_path, tiny_settings())
    for row in progress.metrics:
        assert 0 <= row["reward"] <= 1
        assert 1 <= row["completion_length"] <= 5
        assert row["ratio_min"] <= row["ratio_q50"] <= row["ratio_max"]
        tokens = row["completion_length"] * 12
        assert row["rollout_tokens_per_s"] == pytest.approx(tokens / row["rollout_seconds"])
        seconds = row["rollout_seconds"] + row["reward_seconds"] + row["update_seconds"]
        assert row["tokens_per_s"] == pytest.approx(tokens / seconds)
    rates = [row["learning_rate"] for row in progress.metrics]
    assert rates == pytest.approx([0.001, 0.002, 0.003, 0.003, 0.003, 0.003])  # two warm-up steps
    assert any(row["chi2"] > 0.01 for row in progress.metrics)


def test_a_run_that_diverges_names_the_step_and_what_to_try(tmp_path: Path) -> None:
    with pytest.raises(NumericalError, match=r"skip34/seed1: step \d has loss nan .*; lower training.learning_rate"):
        run(tmp_path, tiny_settings(learning_rate=1e30, warmup_steps=0))


def test_a_gradient_that_is_not_finite_is_not_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    before = weights(policy)
    monkeypatch.setattr(trainer, "policy_loss", lambda logp, *_, **__: (logp.sum() * float("inf"), {"weight_max": 1.0}))
    with pytest.raises(NumericalError, match="step 1 has loss -inf and gradient norm"):
        run(tmp_path, tiny_settings(), policy=policy)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(policy).items())
    assert not (tmp_path / FILE).exists()


def test_a_parameter_that_the_correction_lacks_stops_the_run_at_its_start(tmp_path: Path) -> None:
    settings = tiny_settings(correction="unit")
    settings = settings.model_copy(update={"params": settings.params.model_copy(update={"C": 2.0})})
    with pytest.raises(ValueError, match="correction 'unit' has no parameter 'C'"):
        run(tmp_path, settings)
