"""Corrections: the weight of each token of an off-policy completion, from log pi (target) and log b (behaviour).

All weights are pure functions (B, T) -> (B, T), computed in log space, zero where the mask is false, and detached,
except `base`, whose gradient flows through the ratio as in PPO. rho_t = pi(o_t | .) / b(o_t | .).

name            weight of token t                         source
base            rho_t clipped as in PPO                   Schulman et al. 2017; GRPO with b as its old policy
unit            1                                         on-policy REINFORCE
retrace         lambda min(1, rho_t)                      the factor of Retrace(lambda), Munos et al. 2016
retrace_trace   prod_{s<=t} lambda min(1, rho_s)          the whole trace of Retrace(lambda)
is_token        rho_t                                     importance sampling, one token at a time
is_sequence     prod_s rho_s                              importance sampling; the unbiased one
tis_token       min(rho_t, C)                             truncated importance sampling, Ionides 2008
tis_sequence    min(prod_s rho_s, C)
mask_token      rho_t 1[lo <= rho_t <= hi]                rejection, as in IcePop
mask_sequence   the same for prod_s rho_s
gspo            exp(mean_s log rho_s), clipped            Zheng et al. 2025
topr            A > 0: 1; A < 0: min(1, prod_s rho_s)     Le Roux et al. 2025
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# The parameters of each correction and their defaults; a parameter that a formula does not have is an error.
PARAMETERS: dict[str, dict[str, float]] = {
    "base": {"clip_low": 0.2, "clip_high": 0.2},
    "unit": {},
    "retrace": {"lambda": 1.0},
    "retrace_trace": {"lambda": 1.0},
    "is_token": {},
    "is_sequence": {},
    "tis_token": {"C": 2.0},
    "tis_sequence": {"C": 2.0},
    "mask_token": {"lo": 0.5, "hi": 5.0},
    "mask_sequence": {"lo": 0.5, "hi": 5.0},
    "gspo": {"clip_low": 3e-4, "clip_high": 4e-4},
    "topr": {},
}
# Corrections whose gradient flows through the weight; for the others the weight is a constant of the update.
THROUGH_RATIO = frozenset({"base"})

_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "lambda": (lambda value: 0 < value <= 1, "in (0, 1]"),
    "C": (lambda value: value > 0, "above 0"),
    "lo": (lambda value: value >= 0, "0 or above"),
    "hi": (lambda value: value > 0, "above 0"),
    "clip_low": (lambda value: 0 < value < 1, "in (0, 1)"),
    "clip_high": (lambda value: value > 0, "above 0"),
}


def check_parameters(name: str, given: dict[str, float]) -> dict[str, float]:
    """The parameters of correction `name` with defaults filled in; ValueError names what is unknown or out of range."""
    if name not in PARAMETERS:
        raise ValueError(f"unknown correction '{name}'; possible: {', '.join(PARAMETERS)}")
    for key, value in given.items():
        if key not in PARAMETERS[name]:
            known = ", ".join(PARAMETERS[name]) or "none"
            raise ValueError(f"correction '{name}' has no parameter '{key}'; it has: {known}")
        within, text = _RANGES[key]
        if not within(value):
            raise ValueError(f"correction '{name}': {key} must be {text}, got {value}")
    params = PARAMETERS[name] | given
    if "lo" in params and params["lo"] > params["hi"]:
        raise ValueError(f"correction '{name}': lo {params['lo']} is above hi {params['hi']}")
    return params


def check_pair(logp_target: Tensor, logp_behavior: Tensor, mask: Tensor) -> None:
    """ValueError naming the argument: shapes disagree, no token is valid, or a valid log-probability is not finite."""
    if logp_target.ndim != 2:
        raise ValueError(f"logp_target must be (B, T), got {tuple(logp_target.shape)}")
    if mask.shape != logp_target.shape:
        raise ValueError(f"mask is {tuple(mask.shape)}, but logp_target is {tuple(logp_target.shape)}")
    if not mask.bool().any():
        raise ValueError("mask has no valid token")
    check_logp("logp_target", logp_target, logp_target, mask)
    check_logp("logp_behavior", logp_behavior, logp_target, mask)


def check_logp(argument: str, logp: Tensor, logp_target: Tensor, mask: Tensor) -> None:
    """ValueError naming the `argument` whose shape is not logp_target's, or that is not finite at a valid token."""
    if logp.shape != logp_target.shape:
        raise ValueError(f"{argument} is {tuple(logp.shape)}, but logp_target is {tuple(logp_target.shape)}")
    if not torch.isfinite(logp.detach()[mask.bool()]).all():
        raise ValueError(f"{argument} has a valid token whose log-probability is not finite")


def log_ratio(logp_target: Tensor, logp_behavior: Tensor, mask: Tensor) -> Tensor:
    """log rho_t (B, T), 0 where the mask is false (whatever stands there)."""
    return torch.where(mask.bool(), logp_target - logp_behavior, 0.0)


def importance_weights(
    name: str,
    logp_target: Tensor,
    logp_behavior: Tensor,
    mask: Tensor,
    *,
    advantages: Tensor | None = None,
    **params: float,
) -> Tensor:
    """The weights (B, T) of correction `name`; see the module's table.

    logp_target, logp_behavior: (B, T) log-probabilities of the same tokens; mask: (B, T), true for completion tokens.
    advantages: (B,), needed by `topr`; with it `base` clips on the pessimistic side alone, as PPO's minimum of the
    clipped and the unclipped objective does; without it `base` clips on both. `params` are those of the formula
    (`lambda`, which Python reserves, goes in as ``**{"lambda": 0.9}``). Raises ValueError naming the argument.
    """
    values = check_parameters(name, params)
    check_pair(logp_target, logp_behavior, mask)
    if advantages is not None and advantages.shape != logp_target.shape[:1]:
        raise ValueError(f"advantages is {tuple(advantages.shape)}, but must be ({logp_target.shape[0]},)")
    valid = mask.bool()
    log_rho = log_ratio(logp_target, logp_behavior, mask)
    if name not in THROUGH_RATIO:
        log_rho = log_rho.detach()
    sequence = log_rho.sum(dim=1, keepdim=True)  # log of the product over the completion, (B, 1)

    match name:
        case "base":
            weights = ppo_clip(log_rho.exp(), advantages, values["clip_low"], values["clip_high"])
        case "unit":
            weights = torch.ones_like(log_rho)
        case "retrace":
            weights = values["lambda"] * log_rho.clamp_max(0).exp()
        case "retrace_trace":
            steps = torch.arange(1, log_rho.shape[1] + 1, device=log_rho.device, dtype=log_rho.dtype)
            weights = log_rho.clamp_max(0).cumsum(dim=1).exp() * values["lambda"] ** steps
        case "is_token":
            weights = log_rho.exp()
        case "is_sequence":
            weights = sequence.exp().expand_as(log_rho)
        case "tis_token":
            weights = log_rho.exp().clamp_max(values["C"])
        case "tis_sequence":
            weights = sequence.exp().clamp_max(values["C"]).expand_as(log_rho)
        case "mask_token":
            weights = _reject(log_rho.exp(), values["lo"], values["hi"])
        case "mask_sequence":
            weights = _reject(sequence.exp(), values["lo"], values["hi"]).expand_as(log_rho)
        case "gspo":
            mean = sequence / valid.sum(dim=1, keepdim=True).clamp_min(1)
            weights = mean.exp().clamp(1 - values["clip_low"], 1 + values["clip_high"]).expand_as(log_rho)
        case _:  # topr: the last name that check_parameters lets through
            if advantages is None:
                raise ValueError("correction 'topr' needs advantages")
            tapered = sequence.clamp_max(0).exp()
            weights = torch.where(advantages.unsqueeze(1) < 0, tapered, 1.0).expand_as(log_rho)
    return torch.where(valid, weights, 0.0)


def ppo_clip(rho: Tensor, advantages: Tensor | None, low: float, high: float) -> Tensor:
    """w with w A = min(rho A, clip(rho, 1 - low, 1 + high) A): the clip binds above for A > 0, below for A < 0."""
    if advantages is None:
        return rho.clamp(1 - low, 1 + high)
    positive = (advantages >= 0).unsqueeze(1)
    return torch.where(positive, rho.clamp_max(1 + high), rho.clamp_min(1 - low))


def _reject(rho: Tensor, lo: float, hi: float) -> Tensor:
    return torch.where((rho >= lo) & (rho <= hi), rho, 0.0)
