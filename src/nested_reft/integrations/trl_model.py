"""The models that a nested run of TRL refuses, each in one line.

With no layer left out, the sampler's log-probabilities must be those of the loss. That depends on model, adapters and
settings, so a few tokens are tried: at construction, and again when training starts, since trainer and accelerate
change the model in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from nested_reft.core.layer_selection import choose_skipped_layers
from nested_reft.core.layers import decoder_layers, nested_view
from nested_reft.core.rollout import Rollout
from nested_reft.engine.agreement import check_agreement, trial_rollout

if TYPE_CHECKING:
    from nested_reft.integrations.trl import NestedGRPOTrainer


def refuse_model(trainer: NestedGRPOTrainer) -> None:
    """ValueError if the model's layers cannot be left out as the trainer's `nested` says, or if it is not as sampled.

    The trainer is one that GRPOTrainer has constructed.
    """
    if trainer._is_vlm:
        raise ValueError("processing_class is a processor of images: nested rollouts read text only")
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    if trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3):
        raise ValueError("fsdp and DeepSpeed's ZeRO-3 do not go with nested rollouts: no process has whole layers")
    for adapter in getattr(trainer.model, "peft_config", {}).values():
        if adapter.is_prompt_learning:
            raise ValueError(
                f"peft_config {type(adapter).__name__} does not go with nested rollouts: its virtual tokens are not in "
                "the layers, of which the sampler is a view; use an adapter that is, such as LoraConfig"
            )
    model, nested = trainer.target_model(), trainer.nested
    if model.use_kernels:
        raise ValueError(
            "use_kernels True does not go with nested rollouts: kernels replace the forward of modules, and no view "
            "can be made of them; load the model with False"
        )
    layers = len(decoder_layers(model))
    influence = torch.zeros(layers) if nested.influence is None else torch.tensor(nested.influence)
    skipped = choose_skipped_layers(
        nested.strategy,
        layers,
        nested.skip_percent,
        nested.border,
        batch_seed=0,
        run_seed=0,
        influence=lambda: influence,
    )
    with trainer.accelerator.autocast():
        trial_rollout(nested_view(model, skipped).eval())
    check_log_probabilities(trainer)


def check_log_probabilities(trainer: NestedGRPOTrainer) -> None:
    """ValueError if, with no layer left out, sampler and loss compute other log-probabilities."""

    def logp(rollout: Rollout) -> Tensor:
        prompts = (
            part.repeat_interleave(rollout.group_size, dim=0) for part in (rollout.prompt_ids, rollout.prompt_mask)
        )
        ids, mask = (torch.cat(parts, dim=1) for parts in zip(prompts, (rollout.tokens, rollout.mask), strict=True))
        try:
            result: tuple[Tensor, ...] = trainer._get_per_token_logps_and_entropies(
                trainer.model, ids, mask.long(), rollout.tokens.shape[1], compute_aux_loss=trainer.aux_loss_enabled
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            remedy = ", or router_aux_loss_coef 0.0" if trainer.aux_loss_enabled else ""
            raise ValueError(
                f"TRL cannot compute the loss of {type(trainer.target_model()).__name__} ({type(error).__name__}: "
                f"{' '.join(str(error).split())}); use another model{remedy}"
            ) from error
        return result[0]

    with trainer.accelerator.autocast(), _in_training_mode(trainer.model):
        rollout = trial_rollout(nested_view(trainer.target_model(), ()).eval(), trainer.temperature)
        check_agreement(trainer.model, rollout, logp)


class CheckedAtStart(TrainerCallback):  # type: ignore[misc]
    """Checks the model as it is trained: with what trainer and accelerate did to it when training started."""

    def __init__(self, trainer: NestedGRPOTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Raises as `check_log_probabilities`, before the first rollout."""
        check_log_probabilities(self._trainer)


@contextmanager
def _in_training_mode(model: nn.Module) -> Iterator[None]:
    """Every module in training mode, and then in the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
