"""The evaluation record: order, counts, and draws that all runs share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_evaluation import PROMPT, grade_by_checksum, tiny_policy, tiny_problems

from nested_reft.config.evaluation import EvaluateSettings
from nested_reft.data.records import DataError
from nested_reft.evaluation import evaluate as module
from nested_reft.evaluation.evaluate import evaluate
from nested_reft.rollouts.samplers import TorchSampler

RUN = {"size": "tiny", "dataset": "stories", "correction": "retrace", "skip": 17, "seed": 3}


@pytest.fixture(autouse=True)
def graded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Replaces the grader, and keeps what it was asked: (response, gold)."""
    asked: list[tuple[str, str]] = []

    def grade(response: str, gold: str, answer: str) -> bool:
        asked.append((response, gold))
        return grade_by_checksum(response, gold)

    monkeypatch.setattr(module, "grade", grade)
    return asked


def settings(run: dict[str, Any] | None = None, **evaluation: Any) -> EvaluateSettings:
    options = {"samples_per_problem": 3, "max_new_tokens": 5, "batch_problems": 4} | evaluation
    return EvaluateSettings.model_validate(
        {
            "size": "tiny", "run": run, "benchmarks": ["one"], "evaluation": options, "prompt": PROMPT,
            "dtype": "float32", "device": "cpu",
        }
    )  # fmt: skip


def untimed(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "seconds"}


def test_one_item_a_problem_in_order_with_every_completion(graded: list[tuple[str, str]]) -> None:
    problems = tiny_problems(10)
    record = evaluate(settings(), TorchSampler(tiny_policy()), "one", problems).model_dump()
    assert [item["id"] for item in record["items"]] == [problem.id for problem in problems]
    assert all(isinstance(item["greedy"], bool) and len(item["sampled"]) == 3 for item in record["items"])
    # Each problem's completions are graded against its own answer: one greedy, three sampled.
    assert [gold for _, gold in graded] == [problem.answer for problem in problems for _ in range(4)]
    outcomes = iter(grade_by_checksum(response, gold) for response, gold in graded)
    for item in record["items"]:
        assert [item["greedy"], *item["sampled"]] == [next(outcomes) for _ in range(4)]
    assert {grade for item in record["items"] for grade in item["sampled"]} == {True, False}


def test_other_temperatures_are_answered_with_the_same_random_numbers(graded: list[tuple[str, str]]) -> None:
    problems, sampler = tiny_problems(6), TorchSampler(tiny_policy())
    temperatures = {"temperatures": (1.0, 1e-4, 5.0)}
    asked = settings(RUN).model_copy(update=temperatures)
    items = evaluate(asked, sampler, "one", problems).items
    for item in items:
        assert list(item.at) == ["sampled at T = 1", "sampled at T = 0.0001", "sampled at T = 5"]
        assert item.at["sampled at T = 1"] == item.sampled  # whose temperature is 1
        assert item.at["sampled at T = 0.0001"] == [item.greedy] * 3
    assert [item.at["sampled at T = 5"] for item in items] != [item.sampled for item in items]
    assert [item.model_copy(update={"at": {}}) for item in items] == evaluate(
        settings(RUN), sampler, "one", problems
    ).items


def test_examples_are_the_first_problems_prompts_with_a_greedy_and_a_sampled_completion(
    graded: list[tuple[str, str]],
) -> None:
    problems = tiny_problems(10)
    record = evaluate(settings(), TorchSampler(tiny_policy()), "one", problems).model_dump()
    examples = iter(record["completions"])
    for index, problem in enumerate(problems[:3]):
        item = record["items"][index]
        # Graded in this order: greedy, then three sampled.
        for kind, asked, right in (
            ("greedy", 4 * index, item["greedy"]),
            ("sampled", 4 * index + 1, item["sampled"][0]),
        ):
            response, gold = graded[asked]
            assert next(examples) == {
                "id": problem.id, "prompt": f"{problem.question} answer :", "gold": gold, "kind": kind,
                "response": response, "right": right,
            }  # fmt: skip
    assert next(examples, None) is None


def test_the_same_seed_gives_the_same_record_and_another_seed_another() -> None:
    policy, problems = tiny_policy(), tiny_problems(10)
    torch.manual_seed(1)
    first = evaluate(settings(), TorchSampler(policy), "one", problems).model_dump()
    torch.manual_seed(2)
    assert untimed(evaluate(settings(), TorchSampler(policy), "one", problems).model_dump()) == untimed(first)
    changed = ((settings(seed=1), "one"), (settings(), "two"))
    for other in (evaluate(options, TorchSampler(policy), name, problems).model_dump() for options, name in changed):
        assert [item["greedy"] for item in other["items"]] == [item["greedy"] for item in first["items"]]
        assert [item["sampled"] for item in other["items"]] != [item["sampled"] for item in first["items"]]


def test_runs_are_compared_on_the_same_draws(graded: list[tuple[str, str]]) -> None:
    """The same model under two names of runs writes the same texts."""
    policy, problems = tiny_policy(), tiny_problems(6)
    evaluate(settings(), TorchSampler(policy), "one", problems)
    evaluate(settings(RUN), TorchSampler(policy), "one", problems)
    assert graded[:24] == graded[24:]
    assert len(graded) == 48


def test_no_answer_depends_on_the_batch(graded: list[tuple[str, str]]) -> None:
    """Each problem has random numbers of its own: batch_problems may follow the memory of the machine."""
    policy, problems = tiny_policy(), tiny_problems(10)
    answers = []
    for size in (1, 3, 10):
        graded.clear()
        record = evaluate(settings(batch_problems=size), TorchSampler(policy), "one", problems).model_dump()
        answers.append((record["items"], list(graded)))
    assert answers[0] == answers[1] == answers[2]
    assert len({response for response, _ in answers[0][1]}) > 20  # the samples do differ among problems


@pytest.mark.parametrize("width", [16, 128])
def test_threads_change_no_answer_here(graded: list[tuple[str, str]], width: int) -> None:
    """They change the rounding of probabilities, which turns a token over only if two are equal to about 1e-6."""
    policy, problems, answers = tiny_policy(width=width, feed_forward=2 * width), tiny_problems(10), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            graded.clear()
            torch.set_num_threads(threads)
            record = evaluate(settings(batch_problems=10), TorchSampler(policy), "one", problems).model_dump()
            answers.append((record["items"], list(graded)))
    finally:
        torch.set_num_threads(before)
    assert answers[0] == answers[1]


def test_two_problems_with_the_same_question_get_samples_of_their_own(graded: list[tuple[str, str]]) -> None:
    problems = tiny_problems(1)
    evaluate(settings(), TorchSampler(tiny_policy()), "one", [problems[0], replace(problems[0], id="again")])
    assert graded[0] == graded[4]
    assert graded[1:4] != graded[5:]


def test_the_record_says_whose_it_is() -> None:
    policy, problems = tiny_policy(), tiny_problems(2)
    keys = ("size", "dataset", "correction", "skip", "seed", "benchmark")
    record = evaluate(settings(RUN), TorchSampler(policy), "one", problems).model_dump()
    assert [record[key] for key in keys] == ["tiny", "stories", "retrace", 17, 3, "one"]
    record = evaluate(settings(None), TorchSampler(policy), "two", problems).model_dump()
    assert [record[key] for key in keys] == ["tiny", None, "pretrained", 0, None, "two"]


def test_a_prompt_that_is_too_long_is_refused_and_not_cut() -> None:
    with pytest.raises(DataError, match="more than max_prompt_tokens: 6; raise it"):
        evaluate(settings(max_prompt_tokens=6), TorchSampler(tiny_policy()), "one", tiny_problems(2))


def test_answers_that_were_cut_off_in_grading_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this benchmark, not of one that the same process evaluated before."""
    counts = iter([7, 9])
    monkeypatch.setattr(module, "timeouts", lambda: next(counts))
    record = evaluate(settings(), TorchSampler(tiny_policy()), "one", tiny_problems(2))
    assert record.answers_cut_off == 2
