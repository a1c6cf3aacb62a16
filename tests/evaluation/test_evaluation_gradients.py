"""The measured gradients: their coordinates, their estimates, and the inner products of the record."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_evaluation import PROMPT, grade_by_checksum, tiny_policy, tiny_problems
from tiny_training import DTYPES
from torch import Tensor

from nested_reft.config.gradients import GradientSettings
from nested_reft.core.loss import Objective
from nested_reft.data.records import DataError
from nested_reft.evaluation.gradients import (
    UNBIASED,
    choose_coordinates,
    estimate_gradients,
    load_on_policy,
    measure_gradients,
    measure_on_policy,
)
from nested_reft.evaluation.measurement import MeasurementError
from nested_reft.rollouts import rewards
from nested_reft.rollouts.samplers import TorchSampler

CORRECTIONS: dict[str, dict[str, float]] = {"base": {}, "unit": {}, "retrace": {"lambda": 0.9}, "is_sequence": {}}


@pytest.fixture(autouse=True)
def _cheap_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "grade", grade_by_checksum)


def settings(
    skip: int = 34,
    *,
    dtype: str = "float32",
    problems_per_micro_batch: int | None = None,
    gradient_checkpointing: bool = False,
    **options: Any,
) -> GradientSettings:
    gradients = {
        "corrections": CORRECTIONS, "batches": 4, "problems_per_batch": 3, "completions_per_problem": 4,
    } | options  # fmt: skip
    return GradientSettings.model_validate(
        {
            "size": "tiny", "skip": skip, "gradients": gradients, "prompt": PROMPT, "sampling": {}, "border": 1,
            "strategy": "uniform", "max_new_tokens": 5, "max_prompt_tokens": 64, "dtype": dtype, "device": "cpu",
            "update_clip_low": 0.2, "update_clip_high": 0.2,
            "problems_per_micro_batch": problems_per_micro_batch, "gradient_checkpointing": gradient_checkpointing,
        }
    )  # fmt: skip


def record_of(configured: GradientSettings) -> dict[str, Any]:
    problems = tiny_problems(12)
    on_policy = measure_on_policy(configured, tiny_policy(), problems, lambda _: None)
    return measure_gradients(configured, tiny_policy(), problems, on_policy, lambda _: None).model_dump()


def flat(coordinates: list[Tensor], sizes: list[int]) -> list[int]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [start + int(i) for start, indices in zip(starts, coordinates, strict=True) for i in indices]


def test_coordinates_are_drawn_once_without_repeats_from_all_parameters() -> None:
    model = tiny_policy().model
    sizes = [parameter.numel() for parameter in model.parameters()]
    chosen = flat(choose_coordinates(model, 500, 1), sizes)
    assert len(chosen) == len(set(chosen)) == 500
    assert all(0 <= index < sum(sizes) for index in chosen)
    assert chosen == flat(choose_coordinates(model, 500, 1), sizes)
    assert chosen != flat(choose_coordinates(model, 500, 2), sizes)
    # Uniform: the share below the middle is that of 500 draws, within four standard deviations.
    below = sum(index < sum(sizes) / 2 for index in chosen)
    assert abs(below - 250) < 4 * math.sqrt(500) / 2
    assert flat(choose_coordinates(model, 10**9, 1), sizes) == list(range(sum(sizes)))
    assert len(flat(choose_coordinates(model, sum(sizes) - 1, 1), sizes)) == sum(sizes) - 1


def test_an_estimate_is_the_trainer_s_gradient_at_the_coordinates() -> None:
    """Against a plain backward of the leave-one-out policy gradient, written out."""
    policy, configured = tiny_policy(), settings()
    ids, mask = policy.batch([[4, 5, 6], [7, 8]])
    rollout = TorchSampler(policy).sample((), ids, mask, configured.sampling, group_size=4, max_new_tokens=5, seed=3)
    given = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0]])
    coordinates = choose_coordinates(policy.model, 300, 0)
    objectives = [Objective(correction=name, **UNBIASED) for name in ("unit", "is_sequence")]
    actual = estimate_gradients(policy.model, rollout, given, objectives, configured, coordinates)
    assert actual.shape == (2, 300)

    full = torch.cat((ids.repeat_interleave(4, 0), rollout.tokens), dim=1)
    real = torch.cat((mask.repeat_interleave(4, 0), rollout.mask), dim=1)
    position = (real.long().cumsum(1) - 1).clamp_min(0)
    logits = policy.model(input_ids=full, attention_mask=real, position_ids=position).logits[:, ids.shape[1] - 1 : -1]
    logp = torch.log_softmax(logits, -1).gather(-1, rollout.tokens.unsqueeze(-1)).squeeze(-1) * rollout.mask
    others = (given.sum(1, keepdim=True) - given) / 3
    ((given - others).flatten() * logp.sum(1) / (8 * 5)).sum().backward()
    expected = torch.cat(
        [p.grad.flatten()[indices] for p, indices in zip(policy.model.parameters(), coordinates, strict=True)]
    )
    assert expected.norm() > 0.01
    for row in actual:  # on-policy, so that all corrections are one
        torch.testing.assert_close(row, expected, rtol=1e-3, atol=1e-5)


def test_the_record_holds_the_inner_products_of_all_sets() -> None:
    configured = settings()
    record = record_of(configured)
    assert (record["size"], record["skip"], record["batches"], record["completions"]) == ("tiny", 34, 4, 12)
    assert record["coordinates"] == record["num_parameters"]
    grams = [record["on_policy"], record["repeat"], *(entry["own"] for entry in record["corrections"].values())]
    for gram in grams:
        matrix = torch.tensor(gram, dtype=torch.float64)
        assert matrix.shape == (4, 4)
        torch.testing.assert_close(matrix, matrix.T, rtol=1e-6, atol=1e-12)
        assert (torch.linalg.eigvalsh(matrix) > -1e-9).all()
        assert (matrix.diagonal() > 0).all()
    cross = [record["on_policy_repeat"], *(entry["on_policy"] for entry in record["corrections"].values())]
    for gram, other in zip(cross, grams[1:], strict=True):
        bound = torch.outer(torch.tensor(grams[0]).diagonal().sqrt(), torch.tensor(other).diagonal().sqrt())
        assert (torch.tensor(gram).abs() <= bound * 1.0001).all(), "Cauchy and Schwarz"
    assert list(record["corrections"]) == list(CORRECTIONS)
    own = [entry["own"] for entry in record["corrections"].values()]
    assert all(one != other for i, one in enumerate(own) for other in own[i + 1 :])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_record_is_made_again_to_the_last_digit_and_depends_on_the_seed(dtype: str) -> None:
    record = record_of(settings(dtype=dtype))
    assert record == record_of(settings(dtype=dtype))
    assert record["on_policy"] != record_of(settings(dtype=dtype, seed=1))["on_policy"]


def test_the_on_policy_sets_are_the_same_at_every_skip() -> None:
    one, other = record_of(settings(17)), record_of(settings(34))
    for name in ("on_policy", "repeat", "on_policy_repeat"):
        assert one[name] == other[name]
    assert one["on_policy"] != one["repeat"]
    assert one["corrections"]["unit"] != other["corrections"]["unit"]


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 1e-5), ("bfloat16", 2**-5)])
def test_with_no_layer_skipped_all_corrections_are_one_estimate(dtype: str, rounding: float) -> None:
    record = record_of(settings(0, dtype=dtype))
    unit = torch.tensor(record["corrections"]["unit"]["own"])
    for name, entry in record["corrections"].items():
        factor = 0.81 if name == "retrace" else 1.0  # lambda squared
        torch.testing.assert_close(
            torch.tensor(entry["own"]), factor * unit, rtol=1e-3, atol=rounding * unit.max().item()
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_nested_and_on_policy_completions_share_their_random_numbers(dtype: str) -> None:
    """With no layer skipped they are the same texts, and the estimates the same to the last digit; the repeat's not."""
    record = record_of(settings(0, dtype=dtype))
    assert record["corrections"]["unit"] == {"own": record["on_policy"], "on_policy": record["on_policy"]}
    assert record["repeat"] != record["on_policy"]


@pytest.mark.parametrize("saving", [{"problems_per_micro_batch": 2}, {"gradient_checkpointing": True}])
def test_what_saves_memory_changes_nothing(saving: dict[str, Any]) -> None:
    whole, parts = record_of(settings()), record_of(settings(**saving))
    for name, entry in whole["corrections"].items():
        expected = torch.tensor(entry["own"])
        actual = torch.tensor(parts["corrections"][name]["own"])
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6 * expected.max().item())


def test_an_estimate_that_is_no_number_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from nested_reft.evaluation import gradients as module

    on_policy = measure_on_policy(settings(), tiny_policy(), tiny_problems(12), lambda _: None)
    monkeypatch.setattr(module, "rollout_rewards", lambda *_: 3e38 * torch.eye(3, 4))
    remedy = "'is_sequence' is not a finite number; remove it from gradients.corrections .* float32"
    with pytest.raises(MeasurementError, match=f"^gradients of tiny, batch 3: the estimate of {remedy}$"):
        measure_gradients(settings(), tiny_policy(), tiny_problems(12), on_policy, lambda _: None)


def test_batches_go_through_the_problems_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 problems in batches of 5: the third batch starts over."""
    from nested_reft.evaluation import gradients as module

    seen: list[list[str]] = []
    plain = module.rollout_rewards

    def spy(policy: Any, rollout: Any, problems: Any, reward: Any) -> Tensor:
        seen.append([problem.id for problem in problems])
        return plain(policy, rollout, problems, reward)

    monkeypatch.setattr(module, "rollout_rewards", spy)
    record_of(settings(problems_per_batch=5))
    on_policy, nested = seen[:8], seen[8:]
    assert on_policy[::2] == on_policy[1::2] == nested, "all three sets have the same problems"
    order = [identity for batch in nested for identity in batch]
    assert len(set(order[:12])) == 12
    assert order[12:] == order[:8]


def test_the_on_policy_sets_come_back_from_their_file(tmp_path: Path) -> None:
    configured, path = settings(), tmp_path / "on_policy.safetensors"
    sets = measure_on_policy(configured, tiny_policy(), tiny_problems(12), lambda _: None)
    assert {name: len(tensor) for name, tensor in sets.items()} == {"on_policy": 4, "repeat": 4}
    save_file(sets, path)
    found = load_on_policy(path, configured)
    assert found.keys() == sets.keys()
    assert all(torch.equal(found[name], sets[name]) for name in sets)
    with pytest.raises(DataError, match=r"on_policy\.safetensors: has 4 batches, but 5 are measured; delete the file"):
        load_on_policy(path, settings(batches=5))


@pytest.mark.parametrize("damage", ["text", "one set", "unequal"])
def test_a_damaged_file_of_on_policy_sets_is_named(damage: str, tmp_path: Path) -> None:
    path, rows = tmp_path / "on_policy.safetensors", torch.zeros(4, 3)
    if damage == "text":
        path.write_text("nothing", encoding="utf-8")
    else:
        save_file({"on_policy": rows} | ({"repeat": torch.zeros(3, 3)} if damage == "unequal" else {}), path)
    with pytest.raises(DataError, match=r"on_policy\.safetensors: .* delete the file to make it again"):
        load_on_policy(path, settings())
