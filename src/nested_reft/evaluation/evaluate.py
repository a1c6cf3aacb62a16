"""Accuracy of one policy on one benchmark: greedy, and sampled with several completions per problem."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from nested_reft.config.evaluation import EvaluateSettings, EvaluationMeasurement, sampled_at
from nested_reft.config.records.evaluation import Completion, EvaluationRecord, Item
from nested_reft.config.sampling import Sampling
from nested_reft.data.records import Problem
from nested_reft.grading.grader import grade, timeouts
from nested_reft.rollouts.lengths import fitting_prompts
from nested_reft.rollouts.prompts import render_prompt
from nested_reft.rollouts.samplers import Sampler
from nested_reft.runtime.seeding import derive_seed

EXAMPLES = 3  # problems whose first completions are kept as text, for people to read


def evaluate(
    settings: EvaluateSettings, engine: Sampler, benchmark: str, problems: Sequence[Problem]
) -> EvaluationRecord:
    """The evaluation record of the engine's policy: one item per problem, in the benchmark's order, with each
    completion's grade.

    The random numbers depend only on the benchmark and the evaluation seed, so that all runs are compared on the same
    draws.
    """
    policy, evaluation = engine.policy, settings.evaluation
    at_once = max(len(problems), 1) if engine.schedules else evaluation.batch_problems
    started, cut_off_before = time.perf_counter(), timeouts()
    encoded = fitting_prompts(policy, problems, settings.prompt, evaluation, "evaluation.max_new_tokens")
    items: list[Item] = []
    examples: list[Completion] = []
    for first in range(0, len(problems), at_once):
        batch = problems[first : first + at_once]
        prompts = encoded[first : first + at_once]
        # One per problem: how many are answered together must not change an answer.
        seeds = [derive_seed("evaluate", benchmark, evaluation.seed, first + place) for place in range(len(batch))]
        greedy = _responses(engine, prompts, evaluation, None, 1, seeds)
        sampled = _responses(engine, prompts, evaluation, evaluation, evaluation.samples_per_problem, seeds)
        others = {
            sampled_at(temperature): _responses(
                engine,
                prompts,
                evaluation,
                evaluation.model_copy(update={"temperature": temperature}),
                evaluation.samples_per_problem,
                seeds,
            )
            for temperature in settings.temperatures
        }
        for place, (problem, greedy_texts, sampled_texts) in enumerate(zip(batch, greedy, sampled, strict=True)):
            right = partial(grade, gold=problem.answer, answer=settings.reward.answer)
            item = Item(
                id=problem.id,
                greedy=right(greedy_texts[0]),
                sampled=[right(text) for text in sampled_texts],
                at={name: [right(text) for text in texts[place]] for name, texts in others.items()},
            )
            if len(items) < EXAMPLES:
                example = partial(
                    Completion,
                    id=problem.id,
                    prompt=render_prompt(problem.question, settings.prompt, policy.tokenizer),
                    gold=problem.answer,
                )
                examples += [
                    example(kind="greedy", response=greedy_texts[0], right=item.greedy),
                    example(kind="sampled", response=sampled_texts[0], right=item.sampled[0]),
                ]
            items.append(item)
    run = settings.run
    return EvaluationRecord(
        size=settings.size,
        dataset=run.dataset if run else None,
        correction=run.correction if run else settings.stage,
        skip=run.skip if run else 0,
        strategy=run.strategy if run else "uniform",
        seed=run.seed if run else None,
        benchmark=benchmark,
        rollout_engine=engine.name,
        items=items,
        completions=examples,
        seconds=time.perf_counter() - started,
        answers_cut_off=timeouts() - cut_off_before,
    )


def _responses(
    engine: Sampler,
    prompts: Sequence[list[int]],
    evaluation: EvaluationMeasurement,
    sampling: Sampling | None,
    group_size: int,
    seeds: Sequence[int],
) -> list[list[str]]:
    """The texts of `group_size` completions per prompt; greedy if `sampling` is None."""
    rollout = engine.sample(
        (),
        *engine.policy.batch(prompts),
        sampling,
        group_size=group_size,
        max_new_tokens=evaluation.max_new_tokens,
        seed=seeds,
    )
    texts = engine.policy.responses(rollout)
    return [texts[row : row + group_size] for row in range(0, len(texts), group_size)]
