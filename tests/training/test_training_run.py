"""A training run: what its draws depend on, its gradient, and that an interruption changes nothing."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import (
    DTYPES,
    Done,
    InterruptionError,
    assert_resumes,
    rollout_of,
    run,
    tiny_policy,
    tiny_settings,
)

from nested_reft.config.training import Alarms
from nested_reft.training import step
from nested_reft.training.batches import batch_indices
from nested_reft.training.loop import NumericalError
from nested_reft.training.metrics import step_alarms

FRESH = "starts at step 1: no checkpoint to continue from"


def moved(one: Done, other: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(tensor, other[name]) for name, tensor in one.weights.items())


# --- continuing


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("training", [{}, {"updates_per_rollout": 3, "kl_coefficient": 0.1}], ids=str)
@pytest.mark.parametrize(("dies_after", "resumed_from"), [(5, 4), (1, None), (6, 6)])
def test_an_interrupted_run_ends_exactly_like_an_uninterrupted_one(
    tmp_path: Path, dies_after: int, resumed_from: int | None, training: dict[str, Any], dtype: str
) -> None:
    whole, continued = assert_resumes(tmp_path, tiny_settings(dtype=dtype, **training), dies_after=dies_after)
    assert not training or whole.rows[0]["kl_reference"] > 0, "the second update has left the reference"
    assert continued.log == [f"continues after step {resumed_from}" if resumed_from else FRESH]
    assert [row["step"] for row in whole.rows] == [1, 2, 3, 4, 5, 6]
    assert moved(whole, dict(tiny_policy().model.named_parameters())), "nothing was learnt"


def test_the_time_before_the_interruption_counts(tmp_path: Path) -> None:
    settings = tiny_settings()
    with pytest.raises(InterruptionError):
        run(tmp_path, settings, dies_after=4)
    state = run(tmp_path, settings).state
    steps = sum(row["rollout_seconds"] + row["reward_seconds"] + row["update_seconds"] for row in state.metrics)
    assert state.seconds >= steps


# --- what is drawn


def test_layers_are_drawn_again_for_each_batch(tmp_path: Path) -> None:
    done = run(tmp_path, tiny_settings())
    drawn = [tuple(row["skipped_layers"]) for row in done.state.metrics]
    assert all(len(layers) == 2 and set(layers) <= {1, 2, 3, 4} for layers in drawn)
    assert len(set(drawn)) > 2


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


def test_a_static_choice_is_one_draw_for_the_whole_run(tmp_path: Path) -> None:
    done = run(tmp_path / "one", tiny_settings(strategy="static"))
    assert len({tuple(row["skipped_layers"]) for row in done.state.metrics}) == 1
    others = [rollout_of(tiny_policy(), strategy="static", seed=seed)[0] for seed in range(1, 9)]
    assert len(set(others)) > 2


def test_a_choice_by_influence_leaves_out_the_layers_that_do_least() -> None:
    policy = tiny_policy()
    with torch.no_grad():
        for layer in (2, 4):
            for projection in (
                policy.model.model.layers[layer].self_attn.o_proj,
                policy.model.model.layers[layer].mlp.down_proj,
            ):
                projection.weight.zero_()
    assert [rollout_of(policy, strategy="influence", step=step)[0] for step in (1, 2, 3)] == [(2, 4)] * 3


def test_runs_of_one_seed_draw_the_same_layers_whatever_their_correction(tmp_path: Path) -> None:
    drawn = []
    for correction in ("base", "unit"):
        done = run(tmp_path / correction, tiny_settings(correction=correction))
        drawn.append([row["skipped_layers"] for row in done.state.metrics])
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


# --- a run's metrics and errors


def test_the_metrics_of_a_step(tmp_path: Path) -> None:
    done = run(tmp_path, tiny_settings())
    for row in done.state.metrics:
        assert 0 <= row["reward"] <= 1
        assert 1 <= row["completion_length"] <= 5
        assert row["ratio_min"] <= row["ratio_q50"] <= row["ratio_max"]
        tokens = row["completion_length"] * 12
        assert row["rollout_tokens_per_s"] == pytest.approx(tokens / row["rollout_seconds"])
        seconds = row["rollout_seconds"] + row["reward_seconds"] + row["update_seconds"]
        assert row["tokens_per_s"] == pytest.approx(tokens / seconds)
    rates = [row["learning_rate"] for row in done.state.metrics]
    assert rates == pytest.approx([0.001, 0.002, 0.003, 0.003, 0.003, 0.003])  # two warm-up steps
    assert any(row["chi2"] > 0.01 for row in done.state.metrics)


def test_a_gradient_that_is_not_finite_is_not_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    before = {name: tensor.clone() for name, tensor in policy.model.named_parameters()}
    monkeypatch.setattr(
        step, "policy_loss", lambda _, logp, *__, **___: (logp.sum() * float("inf"), {"weight_max": 1.0})
    )
    with pytest.raises(NumericalError, match="step 1 has loss -inf and gradient norm"):
        run(tmp_path, tiny_settings(), policy=policy)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.model.named_parameters())
    assert [path.name for path in tmp_path.iterdir()] == ["not-finite-step1.safetensors"]


def test_a_parameter_that_the_correction_lacks_stops_the_run_at_its_start(tmp_path: Path) -> None:
    settings = tiny_settings(correction="unit")
    settings = settings.model_copy(update={"params": {"C": 2.0}})
    with pytest.raises(ValueError, match="correction 'unit' has no parameter 'C'"):
        run(tmp_path, settings)


# --- alarms


@pytest.mark.parametrize(
    ("ess", "kl", "limits", "expected"),
    [
        (0.5, 0.2, (0.5, 0.2), set()),  # the limits themselves are sane
        (0.49, 0.2, (0.5, 0.2), {"ess"}),
        (0.5, 0.21, (0.5, 0.2), {"kl_k3"}),
        (0.1, 5.0, (0.5, 0.2), {"ess", "kl_k3"}),
        (0.1, 5.0, (None, 0.2), {"kl_k3"}),
        (0.1, 5.0, (None, None), set()),
        (math.nan, math.nan, (0.5, 0.2), {"ess", "kl_k3"}),
        (1.0, math.inf, (0.5, 0.2), {"kl_k3"}),
    ],
)
def test_an_alarm_is_what_leaves_the_sane_range_or_is_no_number(
    ess: float, kl: float, limits: tuple[Any, Any], expected: set[str]
) -> None:
    values = {"ess": ess, "kl_k3": kl}
    alarms = step_alarms({"step": 1, "chi2": 100.0, **values}, Alarms(ess_below=limits[0], kl_above=limits[1]))
    found = {alarm["quantity"]: alarm["value"] for alarm in alarms}
    assert found.keys() == expected
    assert all(found[name] is values[name] for name in found)


def test_an_alarm_stands_in_the_log_and_names_step_value_and_limit(tmp_path: Path) -> None:
    limits = {"ess_below": 0.999, "kl_above": None}
    done = run(tmp_path, tiny_settings(alarms=limits))
    expected = [row for row in done.state.metrics if row["ess"] < 0.999]
    assert expected
    assert done.log[1:] == [f"alarm: step {row['step']}: ess is {row['ess']:.3g}, below 0.999" for row in expected]
    alarms = tiny_settings(alarms=limits).training.alarms
    found = [alarm for row in done.state.metrics for alarm in step_alarms(row, alarms)]
    assert found == [
        {"step": row["step"], "quantity": "ess", "value": row["ess"], "limit": "below 0.999"} for row in expected
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sane_run_has_no_alarm(tmp_path: Path, dtype: str) -> None:
    """What samples and what is trained round alike: in bfloat16 the rollout is on-policy, too."""
    done = run(tmp_path, tiny_settings(skip=0, dtype=dtype, alarms={"ess_below": 0.99, "kl_above": 0.01}))
    assert max(row["kl_k3"] for row in done.state.metrics) < (1e-8 if dtype == "float32" else 1e-3)
    assert done.log == [FRESH]
