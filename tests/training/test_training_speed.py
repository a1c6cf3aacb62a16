"""The speed of whole steps: what a pair shares, what it differs in, and what is timed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_training import PROMPT, tiny_policy, tiny_problems, tiny_settings

from nested_reft.config.records.step_speed import StepPair
from nested_reft.config.throughput import StepSpeed, StepSpeedSettings
from nested_reft.core.rollout import Rollout
from nested_reft.data.records import DataError
from nested_reft.rollouts import samplers
from nested_reft.training import speed as module
from nested_reft.training import step as algorithm
from nested_reft.training.speed import measure_steps

PAIRS, WARMUP = 4, 2


def settings(skip: int = 34, **training: Any) -> StepSpeedSettings:
    return StepSpeedSettings(
        size="tiny", skip=skip, correction="base", params={}, prompt=PROMPT, device="cpu",
        step_speed=StepSpeed(pairs=PAIRS, warmup_pairs=WARMUP), training=tiny_settings(**training).training,
    )  # fmt: skip


@pytest.fixture
def rollouts(monkeypatch: pytest.MonkeyPatch) -> list[Rollout]:
    """Every rollout of the steps, in order."""
    found: list[Rollout] = []
    plain = samplers.sample_completions

    def sample(*arguments: Any, **options: Any) -> Rollout:
        found.append(plain(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(samplers, "sample_completions", sample)
    return found


def test_the_record_has_every_phase_of_both_sides() -> None:
    heard: list[StepPair] = []
    record = measure_steps(settings(), tiny_policy(), tiny_problems(), heard.append)
    assert {key: getattr(record, key) for key in ("size", "skip", "completions", "new_tokens")} == {
        "size": "tiny", "skip": 34, "completions": 12, "new_tokens": 5,
    }  # fmt: skip
    assert record.pairs == heard
    assert len(heard) == PAIRS
    for pair in heard:
        assert len(pair.skipped_layers) == 2  # of six layers
        assert min(*vars(pair.baseline).values(), *vars(pair.nested).values()) >= 0
    assert len({tuple(pair.skipped_layers) for pair in heard}) > 1, "they are drawn for each pair"


def test_sides_take_turns_on_the_same_prompts_and_no_completion_ends(rollouts: list[Rollout]) -> None:
    policy = tiny_policy()
    measure_steps(settings(), policy, tiny_problems())
    assert len(rollouts) == 2 * (WARMUP + PAIRS)
    for first, second in zip(rollouts[::2], rollouts[1::2], strict=True):
        assert torch.equal(first.prompt_ids, second.prompt_ids)
        assert first.tokens.shape == second.tokens.shape == (12, 5)
        assert first.mask.all()
        assert second.mask.all()
    assert not torch.equal(rollouts[0].prompt_ids, rollouts[2].prompt_ids)
    both = list(rollouts)
    rollouts.clear()
    measure_steps(settings(skip=0), policy, tiny_problems())
    for pair in range(WARMUP + PAIRS):
        # The nested side comes first in the first pair, second in the second, and so on.
        nested, full = both[2 * pair + pair % 2], both[2 * pair + (1 - pair % 2)]
        assert torch.equal(full.logp, rollouts[2 * pair].logp)
        assert not torch.equal(nested.logp, full.logp)


def test_the_weights_stay_and_every_group_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    counted: list[torch.Tensor] = []
    plain = algorithm.micro_batches

    def micro_batches(*arguments: Any) -> Any:
        parts = plain(*arguments)
        counted.extend(part.with_gradient for part in parts)
        return parts

    monkeypatch.setattr(algorithm, "micro_batches", micro_batches)
    # An untrained model solves nothing: with its own rewards no group would count.
    measure_steps(settings(learning_rate=0.1), policy, tiny_problems())
    assert counted
    assert all(with_gradient.all() for with_gradient in counted)
    after = policy.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_each_side_is_timed_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that a rollout of the whole model moves by 6 s, a nested one by 4 s, and nothing else."""
    time = [0.0]
    plain = samplers.nested_view

    def view(model: Any, skipped: Any) -> Any:
        time[0] += 6 - len(skipped)
        return plain(model, skipped)

    monkeypatch.setattr(samplers, "nested_view", view)
    monkeypatch.setattr("nested_reft.training.run.now", lambda device: time[0])
    for pair in measure_steps(settings(), tiny_policy(), tiny_problems()).pairs:
        assert vars(pair.baseline) == {"rollout": 6.0, "reward": 0.0, "update": 0.0}
        assert vars(pair.nested) == {"rollout": 4.0, "reward": 0.0, "update": 0.0}


def test_a_length_that_the_model_has_no_positions_for_is_refused() -> None:
    with pytest.raises(DataError, match=r"step_speed\.new_tokens"):
        measure_steps(settings(max_new_tokens=10_000), tiny_policy(), tiny_problems())


def test_the_answers_are_graded(monkeypatch: pytest.MonkeyPatch) -> None:
    graded: list[Rollout] = []
    plain = module.rollout_rewards

    def rewards(policy: Any, rollout: Rollout, problems: Any, reward: Any) -> Any:
        graded.append(rollout)
        assert len(problems) == 3
        return plain(policy, rollout, problems, reward)

    monkeypatch.setattr(module, "rollout_rewards", rewards)
    measure_steps(settings(), tiny_policy(), tiny_problems())
    assert len(graded) == 2 * (WARMUP + PAIRS)
