"""One training step of Nested-ReFT, from the drawn layers to the update of the target.

The numbered comments are those of docs/method.md. At skip 0 no layer is drawn, and the step is the baseline's. What a
run begins with is in `run.py`, the loop around the steps in `loop.py`; what several processes need is in `world.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.config.run import Run
from nested_reft.config.training import Training
from nested_reft.core.advantages import group_advantages
from nested_reft.core.layer_selection import choose_skipped_layers
from nested_reft.core.layers import decoder_layers
from nested_reft.core.loss import Objective, policy_loss
from nested_reft.core.rollout import Rollout
from nested_reft.engine.layer_influence import influence_of
from nested_reft.rollouts.policy import Policy, compute_dtype
from nested_reft.rollouts.samplers import Sampler
from nested_reft.runtime.seeding import derive_seed
from nested_reft.training.accumulation import (
    Accumulation,
    Batch,
    clip_gradient,
    micro_batches,
    reference_logp,
    target_logp,
)
from nested_reft.training.sharding import copy_weights
from nested_reft.training.world import SINGLE_PROCESS, World, gather_batch

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Learner:
    """What a run trains, how and with what; the same for all its steps.

    target: what is trained. sampler: samples from a policy whose model is the target, or a replica of it if the target
    is sharded. reference: the policy that the run started from, if the objective has a KL term. adapter: in the target,
    if only that is trained. influence: ablation influence (L,), if the strategy reads it.
    """

    run: Run
    training: Training
    objective: Objective
    sampler: Sampler
    target: PreTrainedModel
    optimizer: torch.optim.Optimizer
    reference: PreTrainedModel | None = None
    adapter: PeftModel | None = None
    world: World = SINGLE_PROCESS
    influence: Tensor | None = None

    @property
    def policy(self) -> Policy:
        """The policy that samples."""
        return self.sampler.policy

    def refresh_sampler(self) -> None:
        """Let the next rollout have the target's weights."""
        if self.target is not self.policy.model:
            copy_weights(self.target, self.policy.model)
        self.sampler.refresh()


def reft_step(
    learner: Learner,
    step: int,
    prompts: Sequence[list[int]],
    reward: Callable[[Rollout, slice], Tensor],
    on_phase_end: Callable[[str], None] = lambda phase: None,
    max_skipped: int | None = None,
) -> tuple[Batch, dict[str, float]]:
    """Step `step` (from 1) on the tokens of P prompts: its batch and metrics. `reward` grades the rollout of a slice of
    them, `on_phase_end` hears of the ends of rollout and reward, `max_skipped` bounds k. NotFiniteError: an update is
    not finite.
    """
    run, training, objective = learner.run, learner.training, learner.objective
    policy, world = learner.policy, learner.world
    prompt_ids, prompt_mask = policy.batch(prompts)  # (P, S)
    share = world.share(len(prompts))  # the problems whose completions this process samples
    # Autocast keeps its casts of the weights until its context ends, so none may span an update.
    with compute_dtype(policy.model, training.dtype):
        # 1. Draw the layers that this batch's rollouts leave out: once, for all processes.
        skipped = world.from_main(
            lambda: choose_skipped_layers(
                run.strategy,
                len(decoder_layers(policy.model)),
                run.skip,
                training.border,
                max_skipped=max_skipped,
                batch_seed=derive_seed("layers", run.seed, step),
                run_seed=derive_seed("layers", run.seed),
                influence=influence_of(run.strategy, policy.model, prompt_ids, prompt_mask, learner.influence),
            )
        )
        # 2. The behaviour policy b: the target without them, as a view of it or in vLLM's workers.
        # 3. Rollout: b writes G completions per problem; log b of each token is kept as it was sampled.
        rollout = learner.sampler.sample(
            skipped,
            prompt_ids[share],
            prompt_mask[share],
            training,
            group_size=training.completions_per_problem,
            max_new_tokens=training.max_new_tokens,
            seed=derive_seed("rollout", run.seed, step),
            part=(share.start, len(prompts)),
        )
    learner.sampler.release()
    on_phase_end("rollout")
    # 4. Verifiable rewards (P, G).
    rewards = reward(rollout, share)
    on_phase_end("reward")
    batch = Batch(skipped, *gather_batch(rollout, rewards, policy.pad_id, world))
    # 5. Advantages within each group (P, G).
    advantages = group_advantages(
        batch.rewards, baseline=objective.advantage_baseline, scale_by_std=objective.advantage_std
    )
    parts = micro_batches(
        batch.rollout, advantages, objective, training.max_new_tokens, training.problems_per_micro_batch, world
    )
    logp_reference = reference_logp(learner.reference, parts, training.temperature, training.dtype, world)
    sums = Accumulation(batch, training.updates_per_rollout, world)
    for _ in range(training.updates_per_rollout):
        learner.optimizer.zero_grad(set_to_none=True)
        for part in parts:
            # 6. log pi of the same tokens under the whole target, (b, T).
            logp = target_logp(learner.target, part, training.temperature, training.dtype)
            sums.check(logp, part)
            # 7. The corrected loss; the gradients of the micro-batches add up to the batch's.
            loss, metrics = policy_loss(
                objective,
                logp,
                part.rollout.logp,
                part.rollout.mask,
                advantages[part.problems],
                max_new_tokens=training.max_new_tokens,
                scale=part.scale,
                logp_old=part.of(sums.logp_old),
                logp_reference=part.of(logp_reference),
            )
            if loss.requires_grad:  # not if each group's rewards are all equal
                loss.backward()  # type: ignore[no-untyped-call]
            sums.add(part, loss, logp, metrics)
        # 8. Update the target.
        sums.finish_update(clip_gradient(learner.target, training.max_grad_norm, world))
        learner.optimizer.step()
    return batch, dict(sums.metrics)
