"""Expected gradients by distinct completions: against sums over all completions of a policy, and over all pools."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny_evaluation import PROMPT, grade_by_checksum, tiny_policy, tiny_problems
from tiny_training import DTYPES
from torch import Tensor

from nested_reft.config.gradients import CompletionGradientSettings
from nested_reft.core.corrections import CORRECTIONS
from nested_reft.core.loss import Objective
from nested_reft.core.rollout import Rollout
from nested_reft.evaluation.completion_gradients import (
    Expected,
    Seen,
    distinct_completions,
    estimate_expectations,
    expected_advantages,
    inclusion_chances,
    measure_completion_gradients,
)
from nested_reft.evaluation.exact import bias, cosine, estimator_moments
from nested_reft.evaluation.exact_policy import PROMPT as EXACT_PROMPT
from nested_reft.evaluation.exact_policy import ExactPolicy, exact_policy, probabilities, token_logp
from nested_reft.evaluation.gradients import UNBIASED, choose_coordinates
from nested_reft.evaluation.measurement import MeasurementError
from nested_reft.rollouts import rewards as rewards_module

torch.set_num_threads(1)

OBJECTIVES = [
    Objective(correction=name, params=correction.resolve({}, own=True), **UNBIASED)
    for name, correction in CORRECTIONS.items()
]
ROUNDING = 1e-6  # gradients are kept in single precision


# --- the weights


def test_the_chances_of_two_completions_by_hand() -> None:
    """Two draws of each policy. pi: 1/2 and 1/4; b: 1/4 and 1/2. Missed by all four: (1/2)^2 (3/4)^2 = 9/64, either;
    both: (1/4)^2 (1/4)^2 = 1/256. Seen together: 1 - 2 * 9/64 + 1/256 = 185/256.
    """
    found = inclusion_chances([torch.tensor([0.5, 0.25]).double(), torch.tensor([0.25, 0.5]).double()], 2)
    expected = torch.tensor([[55 / 64, 185 / 256], [185 / 256, 55 / 64]]).double()
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_a_certain_completion_is_always_there() -> None:
    sure, never = torch.tensor([1.0 + 1e-7, 0.0]).double(), torch.tensor([0.5, 0.5]).double()
    found = inclusion_chances([sure, never], 3)
    torch.testing.assert_close(found, torch.tensor([[1, 7 / 8], [7 / 8, 7 / 8]]).double(), rtol=1e-14, atol=0)


def test_tiny_chances_keep_their_digits() -> None:
    """Of M draws, M p is the chance of one, M (M - 1) p q that of two, to the first order."""
    one, none = torch.tensor([1e-12, 3e-12], dtype=torch.float64), torch.zeros(2).double()
    found = inclusion_chances([one, none], 4)
    expected = torch.tensor([[4e-12, 36e-24], [36e-24, 12e-12]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_the_advantages_by_hand() -> None:
    """Seen for certain, R - E R: with chances 1/2, 1/4, 1/4 and the first right, 1/2 and -1/2 twice. A pair that is
    seen half as often as one of it counts twice.
    """
    chances, rewards = torch.tensor([0.5, 0.25, 0.25]).double(), torch.tensor([1.0, 0.0, 0.0]).double()
    everything = torch.ones(3, 3).double()
    assert expected_advantages(chances, rewards, everything).tolist() == [0.5, -0.5, -0.5]
    seldom = torch.full((3, 3), 0.25).double().fill_diagonal_(0.5)
    assert expected_advantages(chances, rewards, seldom).tolist() == [1.0, -1.0, -1.0]
    assert expected_advantages(chances, torch.ones(3).double(), seldom).tolist() == [0.0, 0.0, 0.0]


def test_distinct_completions_are_there_once_without_their_padding() -> None:
    def pool(tokens: list[list[int]], lengths: list[int]) -> Rollout:
        mask = torch.arange(len(tokens[0])) < torch.tensor(lengths).unsqueeze(1)
        return Rollout(torch.tensor([[7]]), torch.tensor([[True]]), torch.tensor(tokens), mask, torch.zeros(mask.shape))

    found = distinct_completions(
        [pool([[1, 2, 9], [3, 9, 9]], [2, 1]), pool([[3, 9], [1, 9], [1, 2]], [1, 1, 2])], pad_id=0
    )
    assert found.tokens.tolist() == [[1, 2], [3, 0], [1, 0]]
    assert found.mask.tolist() == [[True, True], [True, False], [True, False]]
    assert found.group_size == 3


# --- against all completions


def policy_of(horizon: int) -> tuple[ExactPolicy, Tensor, Tensor]:
    """A policy, log b of its completions, and rewards of 0 and 1."""
    policy = exact_policy(3, horizon, seed=2)
    behavior = policy.behavior_logp((1, 3))
    rewards = torch.tensor([float(i % 3 == 1) for i in range(len(behavior))]).double()
    return policy, behavior, rewards


def estimated(
    policy: ExactPolicy,
    behavior: Tensor,
    rewards: Tensor,
    rows: list[int],
    draws: int,
    signs: Tensor | None = None,
    objectives: list[Objective] = OBJECTIVES,
) -> Expected:
    tokens, mask = policy.tokens[rows], policy.mask[rows]
    logp = token_logp(policy.model, tokens, mask)
    rollout = Rollout(
        torch.tensor([EXACT_PROMPT]), torch.ones(1, len(EXACT_PROMPT)).bool(), tokens, mask, behavior[rows]
    )
    everywhere = choose_coordinates(policy.model, 10**6, 0)
    return estimate_expectations(
        logp, Seen(rollout, rewards[rows]), draws, objectives, policy.horizon,
        list(policy.model.parameters()), everywhere, signs,
    )  # fmt: skip


def exact_means(
    policy: ExactPolicy, behavior: Tensor, rewards: Tensor, objectives: list[Objective] = OBJECTIVES
) -> Tensor:
    """The expectations of the leave-one-out estimates of two completions, on-policy and of each correction."""
    on_policy = estimator_moments(Objective(correction="unit", **UNBIASED), policy, policy.logp, rewards, 2)
    others = [estimator_moments(objective, policy, behavior, rewards, 2) for objective in objectives]
    return torch.stack([moments.mean for moments in (on_policy, *others)])


def test_with_everything_covered_they_are_the_exact_expectations() -> None:
    policy, behavior, rewards = policy_of(3)
    found = estimated(policy, behavior, rewards, list(range(15)), draws=10**7)
    expected = exact_means(policy, behavior, rewards)
    norm = expected[0].norm().item()
    torch.testing.assert_close(found.gradients.double(), expected, rtol=0, atol=ROUNDING * norm)
    assert found.covered.tolist() == pytest.approx([1, 1], abs=1e-9)
    # So are what is reported of them.
    for row, correction in enumerate(CORRECTIONS, start=1):
        on, own = found.gradients.double()[[0, row]]
        assert bias(own, on) == pytest.approx(bias(expected[row], expected[0]), abs=1e-5), correction
        assert cosine(own, on) == pytest.approx(cosine(expected[row], expected[0]), abs=1e-5), correction
    assert bias(expected[1 + list(CORRECTIONS).index("retrace")], expected[0]) > 0.1, "the policies differ"


def subsets(policies: list[Tensor], draws: int) -> Iterator[tuple[list[int], float]]:
    """Every set of completions that the pools can show, with its chance, by going through all pools."""
    chances: dict[tuple[int, ...], float] = {}
    count = len(policies[0])
    for pools in itertools.product(*[list(itertools.product(range(count), repeat=draws))] * len(policies)):
        chance = math.prod(p[row].item() for p, pool in zip(policies, pools, strict=True) for row in pool)
        key = tuple(sorted(set(itertools.chain(*pools))))
        chances[key] = chances.get(key, 0.0) + chance
    return ((list(rows), chance) for rows, chance in chances.items())


def test_over_all_pools_their_mean_is_the_exact_expectation() -> None:
    """Seven completions, two draws of each policy, 2401 pairs of pools: there is no bias from what was not seen."""
    policy, behavior, rewards = policy_of(2)
    some = [objective for objective in OBJECTIVES if objective.correction in ("base", "retrace", "is_sequence", "topr")]
    policies = [probabilities(logp) for logp in (policy.logp, behavior)]
    mean, expected_rewards, total = torch.zeros(1), torch.zeros(2).double(), 0.0
    furthest = 0.0
    expected = exact_means(policy, behavior, rewards, some)
    for rows, chance in subsets(policies, 2):
        found = estimated(policy, behavior, rewards, rows, draws=2, objectives=some)
        mean = mean + chance * found.gradients.double()
        expected_rewards += chance * found.rewards
        total += chance
        furthest = max(furthest, (found.gradients.double() - expected).norm().item())
    assert total == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(mean, expected, rtol=0, atol=ROUNDING * expected[0].norm().item())
    assert expected_rewards.tolist() == pytest.approx([(p @ rewards).item() for p in policies], abs=1e-12)
    assert furthest > expected.norm().item(), "each of them is far from it"


def test_random_signs_show_the_second_moment_of_single_completions() -> None:
    """The mean over all 2^3 signs is sum_k b_k |g_k|^2, g_k from the Jacobian, to rounding."""
    policy, behavior, rewards = policy_of(1)
    seen = [
        estimated(policy, behavior, rewards, list(range(3)), 10**7, torch.tensor(signs).double()).second_moments
        for signs in itertools.product((-1.0, 1.0), repeat=3)
    ]
    found = torch.stack(seen).mean(dim=0)
    target, nested = (probabilities(logp) for logp in (policy.logp, behavior))
    scores = policy.jacobian.sum(dim=1) / policy.horizon  # of whole completions
    ratio = target / nested
    on_policy = target @ ((rewards - target @ rewards).square() * scores.square().sum(dim=1))
    sequence = nested @ ((ratio * (rewards - nested @ rewards)).square() * scores.square().sum(dim=1))
    assert found[0].item() == pytest.approx(on_policy.item(), rel=1e-5)
    assert found[1 + list(CORRECTIONS).index("is_sequence")].item() == pytest.approx(sequence.item(), rel=1e-5)


def test_completions_of_equal_rewards_have_no_gradient() -> None:
    policy, behavior, _ = policy_of(2)
    found = estimated(policy, behavior, torch.ones(7).double(), [0, 2, 3], draws=2, signs=torch.ones(3).double())
    assert found.gradients.shape[0] == 1 + len(CORRECTIONS)
    assert not found.gradients.any()
    assert found.second_moments.tolist() == [0.0] * (1 + len(CORRECTIONS))


def test_a_huge_weight_of_a_tiny_probability_is_an_ordinary_number() -> None:
    """b = e^-120 is 0 in single precision, and its inverse infinite; their product is the probability under pi."""
    policy, _, rewards = policy_of(2)
    far = torch.where(policy.mask, -60.0, 0.0).double()
    far[0, 0] = 0.0  # b always writes the completion of one token
    unbiased = [objective for objective in OBJECTIVES if objective.correction == "is_sequence"]
    found = estimated(policy, far, rewards, list(range(7)), draws=10**7, objectives=unbiased).gradients
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
    assert found[0].norm() > 0.01


def test_completions_too_improbable_for_double_precision_are_refused() -> None:
    policy, *_ = policy_of(2)
    tokens, mask = policy.tokens[-2:], policy.mask[-2:]
    far = torch.where(mask, -200.0, 0.0).double()  # e^-400 each
    rollout = Rollout(torch.tensor([EXACT_PROMPT]), torch.ones(1, len(EXACT_PROMPT)).bool(), tokens, mask, far)
    seen = Seen(rollout, torch.tensor([0.0, 1.0]).double())
    with pytest.raises(MeasurementError, match=r"of up to 2 tokens, is not a finite .* lower training.max_new_tokens"):
        estimate_expectations(far, seen, 2, OBJECTIVES, 2, [], [])


# --- the measurement


def settings(
    skip: int = 34, *, dtype: str = "float32", checkpointing: bool = False, **options: Any
) -> CompletionGradientSettings:
    completions = {
        "problems": 3, "pool": 4, "coordinates": 10**9, "seed": 0,
        "corrections": {"base": {}, "unit": {}, "retrace": {"lambda": 0.9}, "is_sequence": {}},
    } | options  # fmt: skip
    return CompletionGradientSettings.model_validate(
        {
            "size": "tiny", "skip": skip, "completions": completions, "prompt": PROMPT, "border": 1, "temperature": 1.0,
            "strategy": "uniform", "max_new_tokens": 3, "max_prompt_tokens": 64, "dtype": dtype, "device": "cpu",
            "update_clip_low": 0.2, "update_clip_high": 0.2, "gradient_checkpointing": checkpointing,
        }
    )  # fmt: skip


@pytest.fixture
def _cheap_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards_module, "grade", grade_by_checksum)


def record_of(configured: CompletionGradientSettings) -> dict[str, Any]:
    done: list[int] = []
    record = measure_completion_gradients(configured, tiny_policy(), tiny_problems(5), done.append)
    assert done == list(range(1, configured.completions.problems + 1))
    return record.model_dump()


@pytest.mark.usefixtures("_cheap_rewards")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_record_is_made_again_to_the_last_digit_and_depends_on_the_seed(dtype: str) -> None:
    record = record_of(settings(dtype=dtype))
    assert record == record_of(settings(dtype=dtype))
    assert record["problems"] != record_of(settings(dtype=dtype, seed=1))["problems"]
    assert (record["size"], record["skip"], record["pool"]) == ("tiny", 34, 4)
    assert record["coordinates"] == record["num_parameters"]
    assert len({problem["problem"] for problem in record["problems"]}) == 3
    assert len({tuple(problem["skipped_layers"]) for problem in record["problems"]}) > 1, "a draw for each problem"
    for problem in record["problems"]:
        assert list(problem["corrections"]) == ["base", "unit", "retrace", "is_sequence"]
        assert 0 < problem["covered_target"] <= 1.0001
        assert 1 <= problem["distinct"] <= 8
        assert problem["second_moment"] >= 0


@pytest.mark.usefixtures("_cheap_rewards")
def test_with_no_layer_skipped_all_corrections_are_the_on_policy_gradient() -> None:
    for problem in record_of(settings(0))["problems"]:
        for name, factor in {"base": 1.0, "unit": 1.0, "retrace": 0.9, "is_sequence": 1.0}.items():
            found, scale = problem["corrections"][name], 1e-4 * abs(problem["on_policy"])
            assert found["on_policy"] == pytest.approx(factor * problem["on_policy"], rel=1e-4, abs=scale)
            assert found["own"] == pytest.approx(factor**2 * problem["on_policy"], rel=1e-4, abs=scale)
            assert found["second_moment"] == pytest.approx(factor**2 * problem["second_moment"], rel=1e-4)


@pytest.mark.usefixtures("_cheap_rewards")
def test_what_saves_memory_changes_nothing() -> None:
    plain, saved = record_of(settings()), record_of(settings(checkpointing=True))
    for one, other in zip(plain["problems"], saved["problems"], strict=True):
        assert one["on_policy"] == pytest.approx(other["on_policy"], rel=1e-4, abs=1e-9)
        own, with_less = (problem["corrections"]["base"]["own"] for problem in (one, other))
        assert own == pytest.approx(with_less, rel=1e-4, abs=1e-9)


def test_more_problems_than_there_are_cannot_be_measured() -> None:
    with pytest.raises(MeasurementError, match=r"^gradients.by_completion.problems: 3 are more than the 2 problems"):
        measure_completion_gradients(settings(), tiny_policy(), tiny_problems(2), lambda _: None)


def test_an_expectation_that_is_no_number_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from nested_reft.evaluation import completion_gradients as module

    def rewards(policy: Any, rollout: Rollout, *_: Any) -> Tensor:
        return 3e38 * (torch.arange(len(rollout.tokens)) % 2).float().unsqueeze(0)

    monkeypatch.setattr(module, "rollout_rewards", rewards)
    named = "^gradients of tiny, problem .*: the estimate of .* is not a finite number; remove it from"
    with pytest.raises(MeasurementError, match=named):
        measure_completion_gradients(settings(), tiny_policy(), tiny_problems(3), lambda _: None)
