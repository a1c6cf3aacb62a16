"""Whether a policy can be sampled, with layers left out or not, and trained on what it sampled; tried beforehand."""

from __future__ import annotations

from transformers import PreTrainedModel

from nested_reft.core.layer_selection import count_and_eligible
from nested_reft.core.layers import decoder_layers, nested_view
from nested_reft.data.records import DataError
from nested_reft.engine.agreement import RandomnessError, check_agreement, trial_rollout
from nested_reft.engine.logp import completion_logp
from nested_reft.rollouts.policy import Policy


def evaluation_view(policy: Policy) -> PreTrainedModel:
    """A view of all layers in evaluation mode; DataError if no view can be made."""
    try:
        return nested_view(policy.model, ()).eval()
    except ValueError as error:
        raise DataError(f"{_name(policy)}: {error}") from None


def check_policy_agreement(policy: Policy) -> None:
    """Raise DataError if sampler and trainer give a token other probabilities, or the model cannot be sampled."""
    model = policy.model
    try:
        rollout = trial_rollout(evaluation_view(policy))
        check_agreement(model, rollout, lambda part: completion_logp(model, part, 1.0))
    except RandomnessError as error:  # the model is in evaluation mode, but for layers that are checkpointed
        raise DataError(f"{_name(policy)}: {error}, or set training.gradient_checkpointing to false") from None
    except ValueError as error:
        raise DataError(f"{_name(policy)}: {error}") from None


def check_policy_skip(policy: Policy, skip: int, border: int) -> None:
    """Raise DataError if the model cannot be sampled with `skip` percent of its layers left out."""
    model = policy.model
    try:
        count, eligible = count_and_eligible(len(decoder_layers(model)), skip, border)
        trial_rollout(nested_view(model, eligible[:count]).eval())
    except ValueError as error:
        raise DataError(f"{_name(policy)}: {error}") from None


def _name(policy: Policy) -> str:
    return policy.model.name_or_path or "model"
