"""Whether sampler and trainer give a token the same probability: tried on a few tokens, before anything is trained.

The ratio of target to behaviour policy is only right if both do, with no layer left out. What breaks it is a property
of a model, an adapter or a setting (virtual tokens, dropout, a cache of a kind of its own), and no list of names has
them all.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from transformers import PreTrainedModel

from nested_reft.core.rollout import Rollout
from nested_reft.engine.sampling import sample_completions

# Nats per token, on average. Rounding stays far below: 1e-5 in float32, 0.02 in bfloat16.
TOLERANCE, HALF_TOLERANCE = 0.01, 0.2
# Parts of the names of settings that make a model random.
RANDOM = ("drop", "jitter", "noise")


class AgreementError(ValueError):
    """Sampler and trainer would not compute the same log-probabilities; the message is one line and says why."""


class RandomnessError(AgreementError):
    """What is trained draws random numbers, of which the sampler's log-probabilities know nothing."""


def trial_rollout(model: PreTrainedModel, temperature: float = 1.0) -> Rollout:
    """Five tokens of each of two completions of two prompts, one of them padded; the same at every call.

    Raises AgreementError if the model cannot be sampled, with the reason.
    """
    vocabulary = model.config.get_text_config().vocab_size
    ids = (torch.arange(8, device=model.device) * vocabulary // 8).view(2, 4)
    mask = torch.tensor([[False, False, True, True], [True, True, True, True]], device=model.device)
    try:
        return sample_completions(
            model,
            ids,
            mask,
            group_size=2,
            max_new_tokens=5,
            temperature=temperature,
            end_ids=(),
            pad_id=0,
            generator=torch.Generator(model.device).manual_seed(0),
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # models that cannot use the cache have no common error
        raise AgreementError(
            f"{type(model).__name__} cannot be sampled token by token ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); use another model or adapter"
        ) from error


@torch.no_grad()
def check_agreement(trained: nn.Module, rollout: Rollout, logp: Callable[[Rollout], Tensor]) -> None:
    """Raise AgreementError if a trial rollout's log-probabilities are not those that training would compute.

    Args:
        trained: the model as it is trained, in its mode; computed by `logp`.
        rollout: `trial_rollout` of the same model, with no layer left out.
        logp: log pi (B, T) of the rollout, as in training.
    """
    device = rollout.tokens.device
    before = _generator_states(device)
    log_pi = logp(rollout)
    if _generator_states(device) != before:
        # A new adapter changes nothing yet, dropped or not. But numbers are also drawn to be compared with 0.
        settings = _random_settings(trained)
        if settings or not torch.equal(logp(rollout), log_pi):
            part = _drawing_part(trained, lambda: logp(rollout), device)
            reason = f"{part} draws random numbers in training mode, noise in every importance ratio"
            raise RandomnessError(f"{', '.join(settings)}: {reason}; use 0" if settings else reason)
    if not rollout.logp.isfinite().all():
        return  # a broken model, which is reported as such
    difference = (log_pi - rollout.logp).abs().mean().item()
    half = torch.is_autocast_enabled(device.type) or next(trained.parameters()).element_size() < 4
    if not difference <= (HALF_TOLERANCE if half else TOLERANCE):
        raise AgreementError(
            f"log-probabilities of {type(trained).__name__} in training and in sampling differ by {difference:.2g} "
            "nats per token with no layer left out, and every importance ratio would be wrong; use another model or "
            "adapter"
        )


def _generator_states(device: torch.device) -> tuple[Any, ...]:
    """The states of the generators that a model can draw from."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return random.getstate(), *(state.numpy().tobytes() for state in states)


def _random_settings(model: nn.Module) -> list[str]:
    """The settings of a model and its adapters that sound random and are above 0, with their values."""
    configs = [getattr(model, "config", None), *getattr(model, "peft_config", {}).values()]
    return sorted(
        f"{key} {value}"
        for config in filter(None, configs)
        for key, value in vars(config).items()
        if any(word in key for word in RANDOM) and isinstance(value, float) and value > 0
    )


def _drawing_part(model: nn.Module, forward: Callable[[], object], device: torch.device) -> str:
    """The innermost part of the model that draws random numbers."""
    found: list[nn.Module] = []
    states: list[tuple[Any, ...]] = []

    def enter(module: nn.Module, args: Any) -> None:
        states.append(_generator_states(device))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if states.pop() != _generator_states(device):
            found.append(module)  # the innermost comes first

    handles = register_module_forward_pre_hook(enter), register_module_forward_hook(leave)
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    part = found[0] if found else model
    name = next((name for name, module in model.named_modules() if module is part), "")
    return f"{name or 'the model'} ({type(part).__name__})"
