"""TRL's GRPOTrainer on the work of `grpo_step.py`, whose steps take turns with ours."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from common import timed
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from nested_reft.config.training import Training
from nested_reft.data.records import Problem
from nested_reft.grading.grader import grade
from nested_reft.rollouts.policy import Policy
from nested_reft.runtime.timing import now
from nested_reft.training.optimizer import make_optimizer, warmup_factor


@dataclass
class Steps:
    """Wall-clock seconds, processor seconds and mean reward of each step so far."""

    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)


class Interleave(TrainerCallback):
    """Times TRL's steps, and between them runs and times ours: T1 O1 O2 T2 T3 O3 O4 T4 ...

    A TRL step is all that its loop does from one call of `on_step_end` to the next: loading the batch, rollout, reward,
    loss, update and its callbacks.
    """

    def __init__(self, our_step: Callable[[int], float], steps: int, device: torch.device) -> None:
        self.trl, self.ours = Steps(), Steps()
        self._our_step, self._steps, self._device = our_step, steps, device
        self._mark = (0.0, 0.0)

    def _clock(self) -> tuple[float, float]:
        return now(self._device), time.process_time()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._mark = self._clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        clock, processor = self._clock()
        self.trl.seconds.append(clock - self._mark[0])
        self.trl.processor.append(processor - self._mark[1])
        step = state.global_step
        for due in (step, step + 1) if step % 2 else ():
            if due <= self._steps:
                seconds, processor, reward = timed(lambda due=due: self._our_step(due), self._device)
                self.ours.seconds.append(seconds)
                self.ours.processor.append(processor)
                self.ours.rewards.append(reward)
        self._mark = self._clock()


def trl_config(training: Training, steps: int, seed: int, device: str, folder: str) -> GRPOConfig:
    """The GRPOConfig of the same step as ours and nothing else that takes time; `grpo_step.py` has the list."""
    rows = training.problems_per_step * training.completions_per_problem
    return GRPOConfig(
        output_dir=folder,
        # the step: one rollout of `rows` completions, one update of all of them
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=1,
        steps_per_generation=1,
        num_iterations=1,
        num_generations=training.completions_per_problem,
        max_steps=steps,
        # the rollout
        max_completion_length=training.max_new_tokens,
        temperature=training.temperature,
        top_k=training.top_k or 0,
        top_p=training.top_p or 1.0,
        # the loss
        loss_type=training.normalisation,
        scale_rewards="group" if training.advantage_std else "none",
        beta=training.kl_coefficient,
        epsilon=training.update_clip_low,
        epsilon_high=training.update_clip_high,
        mask_truncated_completions=False,
        max_grad_norm=training.max_grad_norm,
        learning_rate=training.learning_rate,
        # float32 like ours, and no second forward pass to save memory (TRL's defaults are the opposite)
        bf16=False,
        gradient_checkpointing=False,
        # the same problems in the same order
        shuffle_dataset=False,
        seed=seed,
        # nothing besides the work
        use_cpu=device == "cpu",
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )


def run_interleaved(
    policy: Policy,
    training: Training,
    problems: Sequence[Problem],
    prompts: Sequence[str],
    our_step: Callable[[int], float],
    steps: int,
    seed: int,
) -> tuple[Steps, Steps]:
    """Train a copy of the policy's model with TRL, taking turns with `our_step`; returns TRL's steps and ours.

    problems, prompts: those of all steps, in the order in which they are used.
    """
    model = deepcopy(policy.model)
    device, threads = model.device, torch.get_num_threads()
    interleave = Interleave(our_step, steps, device)

    def reward(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        grades = [float(grade(text, gold)) for text, gold in zip(completions, answer, strict=True)]
        interleave.trl.rewards.append(sum(grades) / len(grades))
        return grades

    # TRL's own AdamW (transformers' default, `adamw_torch_fused`) with our betas; the schedule is ours because
    # transformers' warm-up starts at a learning rate of 0, at which a step learns nothing.
    optimizer = make_optimizer(model, training.learning_rate, training.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: warmup_factor(done + 1, training.warmup_steps))
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=trl_config(training, steps, seed, device.type, folder),
            train_dataset=Dataset.from_dict(
                {"prompt": list(prompts), "answer": [problem.answer for problem in problems]}
            ),
            processing_class=deepcopy(policy.tokenizer),
            callbacks=[interleave],
            optimizers=(optimizer, schedule),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    if torch.get_num_threads() != threads:
        raise RuntimeError(f"TRL changed the number of threads from {threads} to {torch.get_num_threads()}")
    return interleave.trl, interleave.ours
