"""The warm-up: supervised fine-tuning on worked solutions, the first stage of ReFT (Luong et al. 2024).

Beyond it, one switch: with `layer_drop` each batch is computed on a nested view, as a rollout is (stochastic depth,
Huang et al. 2016), so that the model tolerates the loss of a few layers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from nested_reft.config.warmup import WarmupSettings, WarmupTraining
from nested_reft.core.layers import decoder_layers, nested_view
from nested_reft.core.rollout import Rollout
from nested_reft.data.records import DataError, Problem
from nested_reft.engine.logp import completion_logp, enable_activation_checkpointing
from nested_reft.rollouts.lengths import check_policy_lengths
from nested_reft.rollouts.policy import Policy, compute_dtype
from nested_reft.rollouts.prompts import encode_prompts
from nested_reft.runtime.seeding import derive_seed
from nested_reft.training.batches import batch_indices
from nested_reft.training.checkpoint import TrainingState
from nested_reft.training.loop import Job, NumericalError, ResumableLoop, Row
from nested_reft.training.optimizer import make_optimizer, set_learning_rate, warmup_factor

MAX_GRAD_NORM = 1.0

Example = tuple[list[int], list[int]]  # prompt and solution with its end token, as tokens


def warm_up(settings: WarmupSettings, policy: Policy, examples: Sequence[Example], job: Job) -> TrainingState:
    """Train `policy.model` in place, from the last checkpoint if there is one; returns the metrics of every step.

    Args:
        settings: the warm-up, and the settings that it shares with training.
        policy: the unmodified model.
        examples: of `encode_solutions`.
        job: what surrounds the warm-up.

    Raises:
        StoppedError, NumericalError; DataError if the model cannot take such lengths; StorageError for a checkpoint
        that cannot be written.
    """
    options, model = settings.warmup, policy.model
    longest = max(len(solution) for _, solution in examples)
    check_policy_lengths(policy, [prompt for prompt, _ in examples], longest, "training.max_new_tokens")
    if settings.gradient_checkpointing:
        enable_activation_checkpointing(model)
    optimizer = make_optimizer(model, options.learning_rate, 0.0)
    every, minutes = options.checkpoint_every, options.checkpoint_minutes
    loop = ResumableLoop(job, settings.size, settings.key, model, optimizer, options.steps, every, minutes)

    def make_step(step: int, _: Sequence[Row]) -> Row:
        rate = learning_rate(options, step)
        set_learning_rate(optimizer, rate)
        indices = batch_indices(step, options.solutions_per_batch, len(examples), options.seed)
        dropped = dropped_layers(options, len(decoder_layers(model)), settings.border, step)
        optimizer.zero_grad(set_to_none=True)
        with compute_dtype(model, settings.dtype):
            loss = _add_gradient(policy, dropped, [examples[index] for index in indices], options)
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NumericalError(
                f"{settings.size}: step {step} of the warm-up has loss {loss} and gradient norm {norm}; lower "
                "warmup.learning_rate"
            )
        optimizer.step()
        return {"step": step, "loss": loss, "grad_norm": norm, "learning_rate": rate, "dropped_layers": list(dropped)}

    return loop.run(loop.resume(), make_step)


def encode_solutions(settings: WarmupSettings, policy: Policy, problems: Sequence[Problem]) -> list[Example]:
    """Prompts and solutions as tokens, without the solutions that have more tokens than a rollout may have.

    Raises DataError for a problem without a solution, and if none is left.
    """
    texts = []
    for problem in problems:
        if problem.solution is None:
            raise DataError(f"problem {problem.id!r} of the warm-up has no solution; delete its file to make it again")
        texts.append(problem.solution)
    questions = [problem.question for problem in problems]
    prompts = encode_prompts(questions, settings.prompt, policy.tokenizer, settings.max_prompt_tokens)
    end = policy.tokenizer.eos_token_id
    end = end if end in policy.end_ids else policy.end_ids[0]
    solutions = [[*tokens, end] for tokens in policy.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    most = settings.max_new_tokens
    kept = [pair for pair in zip(prompts, solutions, strict=True) if len(pair[1]) <= most]
    if not kept:
        raise DataError(
            f"the shortest solution of the warm-up has {min(map(len, solutions))} tokens, but "
            f"training.max_new_tokens is {most}; raise it, or shorten the `solution`"
        )
    return kept


def learning_rate(options: WarmupTraining, step: int) -> float:
    """The learning rate of a step, from 1: a linear increase, and a cosine that reaches 0 after the last step."""
    cosine = 0.5 * (1 + math.cos(math.pi * (step - 1) / options.steps))
    return options.learning_rate * warmup_factor(step, options.warmup_steps) * cosine


def dropped_layers(options: WarmupTraining, num_layers: int, border: int, step: int) -> tuple[int, ...]:
    """The layers that a step leaves out: each eligible one with probability `layer_drop`."""
    rng = random.Random(derive_seed("layer-drop", options.seed, step))
    return tuple(layer for layer in range(border, num_layers - border) if rng.random() < options.layer_drop)


def _add_gradient(policy: Policy, dropped: Sequence[int], batch: Sequence[Example], options: WarmupTraining) -> float:
    """Add the gradient of a batch's loss: the mean cross-entropy of its solutions' tokens, in nats."""
    view = nested_view(policy.model, dropped)
    num_tokens = sum(len(solution) for _, solution in batch)
    size = options.solutions_per_micro_batch or len(batch)
    total = 0.0
    for first in range(0, len(batch), size):
        # logp is 0 where there is no token of a solution.
        loss = -completion_logp(view, _teacher_forced(policy, batch[first : first + size]), 1.0).sum() / num_tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def _teacher_forced(policy: Policy, batch: Sequence[Example]) -> Rollout:
    """Solutions as the completions of their prompts, one each; their log b is not known and not used."""
    prompt_ids, prompt_mask = policy.batch([prompt for prompt, _ in batch])
    width = max(len(solution) for _, solution in batch)
    tokens = torch.full((len(batch), width), policy.pad_id)
    for row, (_, solution) in enumerate(batch):
        tokens[row, : len(solution)] = torch.tensor(solution)
    lengths = torch.tensor([len(solution) for _, solution in batch])
    mask: Tensor = torch.arange(width) < lengths.unsqueeze(1)
    tokens, mask = tokens.to(prompt_ids.device), mask.to(prompt_ids.device)
    return Rollout(prompt_ids, prompt_mask, tokens, mask, torch.zeros(tokens.shape, device=tokens.device))
