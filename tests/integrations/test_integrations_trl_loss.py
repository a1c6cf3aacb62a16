"""What TRL's loss makes of the weighed advantages is `policy_loss`, for every correction of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from tiny_trl import LAYERS, GRPOTrainer, NestedConfig, config, plain_logp, reward, trainer_of
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.core.advantages import group_advantages
from nested_reft.core.corrections import CORRECTIONS
from nested_reft.core.loss import NORMALISATIONS, Objective, policy_loss

TEMPERATURE, LENGTH = 0.9, 6
# Tight enough that some of the weights of 48 tokens are cut; `base` and `unit` have none.
PARAMS: dict[str, dict[str, float]] = {
    "retrace": {"lambda": 0.9}, "retrace_trace": {"lambda": 0.9}, "tis_token": {"C": 1.2}, "tis_sequence": {"C": 1.1},
    "mask_token": {"lo": 0.6, "hi": 1.5}, "mask_sequence": {"lo": 0.1, "hi": 2.0},
    "gspo": {"clip_low": 0.05, "clip_high": 0.1},
}  # fmt: skip


def double_model() -> PreTrainedModel:
    return tiny_model(layers=LAYERS).double()


def with_weights(weights: dict[str, Tensor]) -> PreTrainedModel:
    model = double_model()
    model.load_state_dict(weights)
    return model


def tokens_of(batch: dict[str, Tensor]) -> list[list[int]]:
    """What the reward was given: a completion that TRL masks is truncated, so all of its row is real."""
    masks = batch["completion_mask"].bool()
    masks = masks | ~masks.any(dim=1, keepdim=True)
    return [ids[mask].tolist() for ids, mask in zip(batch["completion_ids"], masks, strict=True)]


def expected_gradient(
    name: str, batch: dict[str, Tensor], now: dict[str, Tensor], before: dict[str, Tensor], *,
    temperature: float = TEMPERATURE, **objective: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """The gradient of `policy_loss` on a generation batch; `before`: the weights that the batch was made with."""
    own_clip = CORRECTIONS[name].clip == "own"
    # The clip that `config` leaves at TRL's default.
    clips = {} if own_clip else {"update_clip_low": 0.2, "update_clip_high": 0.2}
    model = with_weights(now)
    loss, _ = policy_loss(
        Objective(name, PARAMS.get(name, {}), **clips, **objective),
        plain_logp(model, batch, temperature),
        batch["sampling_per_token_logps"].double(),
        batch["completion_mask"],
        group_advantages(torch.tensor(reward(tokens_of(batch)), dtype=torch.float64).view(-1, 4)),
        max_new_tokens=LENGTH,
        logp_old=plain_logp(with_weights(before), batch, temperature).detach(),
    )
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_equal_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """To 1e-5 of the largest: sampler and TRL hand on log-probabilities and advantages in float32."""
    assert found.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest > 1e-3
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-5 * max(largest, 1.0))


def batch_number(trainer: Any, number: int) -> dict[str, Tensor]:
    skipped, batch = trainer.batches[number]
    assert len(skipped) == 2
    return dict(batch)


@pytest.mark.parametrize("name", CORRECTIONS)
def test_the_gradient_of_a_correction_is_that_of_policy_loss(tmp_path: Path, name: str) -> None:
    nested = NestedConfig(skip_percent=40, correction=name, params=PARAMS.get(name, {}))
    trainer, recorder = trainer_of(config(tmp_path), nested, model=double_model())
    trainer.train()
    assert len(trainer.batches) == len(recorder.gradients) == 2
    for step in range(2):
        now = recorder.weights[step]
        expected = expected_gradient(name, batch_number(trainer, step), now, now)
        assert_equal_gradients(recorder.gradients[step], expected)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_so_it_is_for_every_loss_type_and_over_micro_batches(tmp_path: Path, normalisation: str) -> None:
    """Two micro-batches per step; that of bnpo depends on which completions are in which, so it has one."""
    micro = 1 if normalisation == "bnpo" else 2
    args = config(
        tmp_path, loss_type=normalisation, per_device_train_batch_size=8 // micro, gradient_accumulation_steps=micro,
        max_steps=1,
    )  # fmt: skip
    nested = NestedConfig(skip_percent=40, params=PARAMS["retrace"])
    trainer, recorder = trainer_of(args, nested, model=double_model())
    trainer.train()
    now = recorder.weights[0]
    expected = expected_gradient("retrace", batch_number(trainer, 0), now, now, normalisation=normalisation)
    assert_equal_gradients(recorder.gradients[0], expected)


@pytest.mark.parametrize("name", ["base", "unit", "retrace", "is_sequence", "gspo", "topr"])
def test_later_updates_on_a_rollout_keep_its_weights(tmp_path: Path, name: str) -> None:
    """The second update's ratio is to the policy before the first, or for `base` and `gspo` to b."""
    nested = NestedConfig(skip_percent=40, correction=name, params=PARAMS.get(name, {}))
    args = config(tmp_path, num_iterations=2, learning_rate=0.1)
    trainer, recorder = trainer_of(args, nested, model=double_model())
    trainer.train()
    assert len(trainer.batches) == 1
    before, now = recorder.weights
    batch = batch_number(trainer, 0)
    expected = expected_gradient(name, batch, now, before)
    assert_equal_gradients(recorder.gradients[1], expected)
    on_policy = expected_gradient(name, batch, now, now)
    same = all(torch.allclose(on_policy[key], expected[key], atol=1e-4) for key in expected)
    assert same == CORRECTIONS[name].through_ratio  # else the old policy would not matter here


def test_micro_batches_of_several_steps_are_weighed_once(tmp_path: Path) -> None:
    """One rollout for two steps of half of it: their gradients add up to the batch's if no step moves the model."""
    args = config(tmp_path, per_device_train_batch_size=4, steps_per_generation=2, learning_rate=0.0)
    trainer, recorder = trainer_of(args, NestedConfig(skip_percent=40, params=PARAMS["retrace"]), model=double_model())
    trainer.train()
    assert len(trainer.batches) == 1
    now = recorder.weights[0]
    halves = recorder.gradients
    found = {name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]}
    assert_equal_gradients(found, expected_gradient("retrace", batch_number(trainer, 0), now, now))


@pytest.mark.parametrize(("iterations", "passes"), [(1, 2), (2, 3)])
def test_the_weights_need_no_forward_pass_that_trl_does_not_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, iterations: int, passes: int
) -> None:
    """Two steps: one pass each, and with one rollout for both that of the old policy, which TRL makes anyway.

    Two more, on a few tokens, are those of the checks at construction and when training starts.
    """
    calls: list[int] = []
    compute = GRPOTrainer._get_per_token_logps_and_entropies

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return compute(self, *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", spy)
    trainer, _ = trainer_of(config(tmp_path, num_iterations=iterations), NestedConfig(skip_percent=40))
    trainer.train()
    assert len(calls) == passes + 2


def test_completions_that_trl_masks_have_no_weight(tmp_path: Path) -> None:
    """One completion per micro-batch, and a limit that few keep: most micro-batches have no token to weigh."""
    args = config(
        tmp_path, mask_truncated_completions=True, max_completion_length=2, per_device_train_batch_size=1,
        gradient_accumulation_steps=8, max_steps=1, temperature=4.0, seed=2,
    )  # fmt: skip
    trainer, recorder = trainer_of(args, NestedConfig(skip_percent=40, correction="unit"), model=double_model())
    trainer.train()
    batch, now = batch_number(trainer, 0), recorder.weights[0]
    kept = batch["completion_mask"].any(dim=1)
    assert 0 < kept.sum() < 8
    assert batch["advantages"][kept].any()
    expected = expected_gradient("unit", batch, now, now, temperature=4.0)
    assert_equal_gradients(recorder.gradients[0], expected)


def test_a_batch_without_any_token_to_weigh_is_left_alone(tmp_path: Path) -> None:
    trainer, _ = trainer_of(config(tmp_path), NestedConfig(skip_percent=40))
    batch = {
        "sampling_per_token_logps": torch.zeros(2, 3), "completion_mask": torch.zeros(2, 3, dtype=torch.long),
        "advantages": torch.tensor([1.0, -1.0]),
    }  # fmt: skip
    assert trainer._weighed_advantages(batch, torch.full((2, 3), torch.nan)) is batch["advantages"]
    trainer._log_distance()
    assert not trainer._metrics["train"]
