"""A whole step of training at skip 0 (rollout, reward, loss, update) against TRL's GRPOTrainer on the same work.

    python benchmarks/grpo_step.py [--quick] [--device cpu|cuda] [--threads N] [--seeds N] [--steps N]

The pre-trained models of the default experiment, its problems in the same order, its group size, temperature, limit,
learning rate with warm-up, clipping of the gradient, and grading of answers. Steps take turns, TRL ours ours TRL, in
one process: a TRL callback runs ours, and a TRL step is the time from one `on_step_end` to the next. The first two
steps warm up. Both sides learn as they go, each on its own copy, so completions have similar lengths only as long as
the rewards are similar: these are compared too.

TRL's settings (`grpo_trl.py`), so that a step is one rollout and one update of all completions and nothing else:
per_device_train_batch_size = problems x completions, gradient_accumulation_steps = steps_per_generation =
num_iterations = 1; loss_type `grpo` with scale_rewards `group`, beta 0 (no reference model), epsilon 0.2 on both sides,
no masking of truncated completions; top_k 0, top_p 1; bf16 off and gradient_checkpointing off (by default TRL has both
on); AdamW fused as in transformers, with our betas; no logging, saving, evaluation, reporting, progress bar or
dataloader workers; the dataset in our order, not shuffled. TRL's `generate` has its natural settings.

Keys: `ratio` per model, TRL's seconds over ours, median over pairs of steps; `rewards` per model: the mean reward of
each step over seeds on either side, the difference (ours less TRL's) over the last 10 steps with its standard error,
the larger of that over seeds and that over steps, and `alike`: whether the difference is within twice the error.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from common import (
    Spread,
    laptop_config,
    laptop_policy,
    laptop_problems,
    parse_options,
    print_result,
    require_bench_extra,
)

from nested_reft.config.experiment import Config
from nested_reft.config.reward import Reward
from nested_reft.config.run import BASELINE_CORRECTION, Run
from nested_reft.config.training import Training
from nested_reft.data.records import Problem
from nested_reft.rollouts.policy import Policy
from nested_reft.rollouts.prompts import encode_prompts, render_prompt
from nested_reft.rollouts.rewards import rollout_rewards
from nested_reft.training.batches import batch_indices
from nested_reft.training.optimizer import set_learning_rate, warmup_factor
from nested_reft.training.run import make_learner
from nested_reft.training.step import reft_step

WARMUP_STEPS, LAST_STEPS = 2, 10


class OurSteps:
    """The step of `nested_reft.training.run.train` at skip 0, one call per step, without log and checkpoint."""

    def __init__(self, config: Config, policy: Policy, problems: Sequence[Problem], run: Run) -> None:
        self._training, self._policy, self._problems, self._run = config.training, policy, problems, run
        self._learner = make_learner(policy, run, config.training, config.corrections[run.correction])
        questions = [problem.question for problem in problems]
        self._prompts = encode_prompts(questions, config.prompt, policy.tokenizer, config.training.max_prompt_tokens)

    def __call__(self, step: int) -> float:
        """One step (from 1); its mean reward."""
        training = self._training
        indices = batch_indices(step, training.problems_per_step, len(self._problems), self._run.seed)
        problems = [self._problems[i] for i in indices]
        set_learning_rate(self._learner.optimizer, training.learning_rate * warmup_factor(step, training.warmup_steps))
        batch, _ = reft_step(
            self._learner,
            step,
            [self._prompts[i] for i in indices],
            lambda rollout, share: rollout_rewards(self._policy, rollout, problems[share], Reward()),
        )
        return batch.rewards.mean().item()


def compare(
    config: Config, size: str, policy: Policy, problems: Sequence[Problem], seeds: int, steps: int
) -> dict[str, Any]:
    """The ratio of times and the comparison of rewards of one model."""
    from grpo_trl import run_interleaved  # needs the extra

    training: Training = config.training
    dataset = next(iter(config.datasets))
    seconds: tuple[list[float], list[float]] = ([], [])
    processor: tuple[list[float], list[float]] = ([], [])
    rewards: tuple[list[list[float]], list[list[float]]] = ([], [])
    for seed in range(1, seeds + 1):
        run = Run(size=size, dataset=dataset, correction=BASELINE_CORRECTION, skip=0, seed=seed)
        ours = OurSteps(config, replace(policy, model=copy.deepcopy(policy.model)), problems, run)
        order = [
            problems[index]
            for step in range(1, steps + 1)
            for index in batch_indices(step, training.problems_per_step, len(problems), seed)
        ]
        prompts = [render_prompt(problem.question, config.prompt, policy.tokenizer) for problem in order]
        sides = run_interleaved(policy, training, order, prompts, ours, steps, seed)
        for side, done in enumerate(sides):
            if len(done.seconds) != steps or len(done.rewards) != steps:
                raise RuntimeError(f"{size}: {len(done.seconds)} steps and {len(done.rewards)} rewards, not {steps}")
            seconds[side].extend(done.seconds[WARMUP_STEPS:])
            processor[side].extend(done.processor[WARMUP_STEPS:])
            rewards[side].append(done.rewards)
        print(
            f"{size}, seed {seed}: {statistics.median(sides[0].seconds):.3f} s per step with TRL, "
            f"{statistics.median(sides[1].seconds):.3f} s with ours",
            flush=True,
        )
    ratio = Spread.of([theirs / mine for theirs, mine in zip(*seconds, strict=True)])
    of_processor = Spread.of([theirs / mine for theirs, mine in zip(*processor, strict=True)])
    medians = [statistics.median(side) for side in seconds]
    print(
        f"{size}: TRL {medians[0]:.3f} s, ours {medians[1]:.3f} s: ratio {ratio}, of processor time "
        f"{of_processor}, {len(seconds[0])} pairs of steps"
    )
    return {
        "ratio": ratio.median,
        "ratio_spread": ratio,
        "ratio_processor": of_processor.median,
        "seconds": {"trl": medians[0], "ours": medians[1]},
        "rewards": compare_rewards(size, *rewards),
    }


def compare_rewards(size: str, theirs: list[list[float]], mine: list[list[float]]) -> dict[str, Any]:
    """The comparison of the rewards (seeds, steps) of both sides, which saw the same problems in each step."""
    last = [
        [b - a for a, b in zip(first, second, strict=True)][-LAST_STEPS:]
        for first, second in zip(theirs, mine, strict=True)
    ]
    of_seeds = [statistics.fmean(seed) for seed in last]
    difference = statistics.fmean(of_seeds)
    # Steps of one seed are not independent, and three seeds say little about their spread: the larger error counts.
    errors = [standard_error([value for seed in last for value in seed]), standard_error(of_seeds)]
    error = max(errors)
    by_step = {
        name: [statistics.fmean(step) for step in zip(*side, strict=True)]
        for name, side in (("trl", theirs), ("ours", mine))
    }
    alike = abs(difference) <= 2 * error
    for name, curve in by_step.items():
        print(f"{size}: mean reward with {name}: {curve[0]:.3f} in step 1, {curve[-1]:.3f} in step {len(curve)}")
    print(
        f"{size}: over the last {len(last[0])} steps ours is {difference:+.3f} ± {error:.3f} (standard error): "
        f"{'alike' if alike else 'not alike'}",
        flush=True,
    )
    return {**by_step, "difference": difference, "standard_error": error, "alike": alike}


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean; 0 for one value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """This benchmark's own options."""
    parser.add_argument("--sizes", nargs="+", choices=("small", "large"), default=["small", "large"])
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each side (default 3)")
    parser.add_argument("--steps", type=int, default=30, metavar="N", help="steps per run (default 30)")


def main() -> None:
    """Measure every model, and print the JSON line."""
    options = parse_options(__doc__, add_options)
    require_bench_extra("trl", "accelerate")
    seeds, steps = (2, 4) if options.quick else (options.seeds, options.steps)
    config = laptop_config(options.quick)
    problems = laptop_problems(config)
    result: dict[str, dict[str, Any]] = {}
    for size in options.sizes:
        policy = laptop_policy(config, size, options)
        for key, value in compare(config, size, policy, problems, seeds, steps).items():
            result.setdefault(key, {})[size] = value
    import trl

    print_result("grpo_step", options, {**result, "seeds": seeds, "steps": steps, "trl": trl.__version__})


if __name__ == "__main__":
    main()
