"""Corrections: the weight of each token of an off-policy completion, from log pi (target) and log b (behaviour).

`CORRECTIONS` is the one registry: configuration, generated docs, plot styles and error messages read it, so a new
correction is one entry here. Weights are pure functions (B, T) -> (B, T), computed in log space, 0 where the mask is
false, and detached unless the gradient flows through the ratio. rho_t = pi(o_t | .) / b(o_t | .). Tensors are used
through their methods only: the configuration reads this registry without waiting for torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Parameter:
    """A parameter of a correction: its default, the values that it may have, and what it does."""

    default: float
    within: Callable[[float], bool]
    range: str
    meaning: str


@dataclass(frozen=True)
class Ratios:
    """What a correction may read: log pi - log b (B, T), 0 where the mask `valid` (B, T) is false; advantages (B,) or
    None; and of it rho_t (B, T), and per completion (B, 1) the product of its ratios and their geometric mean.
    """

    log_rho: Tensor
    valid: Tensor
    advantages: Tensor | None

    @property
    def token(self) -> Tensor:
        return self.log_rho.exp()

    @property
    def log_sequence(self) -> Tensor:
        return self.log_rho.sum(dim=1, keepdim=True)

    @property
    def sequence(self) -> Tensor:
        return self.log_sequence.exp()

    @property
    def geometric_mean(self) -> Tensor:
        return (self.log_sequence / self.valid.sum(dim=1, keepdim=True).clamp_min(1)).exp()


Weights: TypeAlias = "Callable[[Ratios, Mapping[str, float]], Tensor]"  # (B, T), or (B, 1) for one weight per row


@dataclass(frozen=True)
class Correction:
    """One entry of the registry; `formula` is the weight of token t in LaTeX."""

    name: str
    formula: str
    weights: Weights
    source: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    # Of a ratio that the gradient flows through: Objective's, or its parameters.
    clip: Literal["", "update", "own"] = ""
    needs_advantages: bool = False

    def resolve(self, given: Mapping[str, float], *, own: bool = False) -> dict[str, float]:
        """All parameters, the defaults filled in; with `own`, without those that `Objective` has, the update's clip.

        Raises ValueError naming what is unknown or out of range.
        """
        if own and self.clip == "update":
            if given:
                raise ValueError(f"correction '{self.name}': set update_clip_low and update_clip_high, not {[*given]}")
            return {}
        for key, value in given.items():
            if key not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise ValueError(f"correction '{self.name}' has no parameter '{key}'; it has: {known}")
            if not self.parameters[key].within(value):
                raise ValueError(f"correction '{self.name}': {key} must be {self.parameters[key].range}, got {value}")
        values = {key: given.get(key, parameter.default) for key, parameter in self.parameters.items()}
        if "lo" in values and values["lo"] > values["hi"]:
            raise ValueError(f"correction '{self.name}': lo {values['lo']} is above hi {values['hi']}")
        return values

    @property
    def through_ratio(self) -> bool:
        """Whether the gradient flows through the weight; if not, it is a constant of the update."""
        return bool(self.clip)


CORRECTIONS: dict[str, Correction] = {}


def register(correction: Correction) -> Correction:
    """Add a correction under its name. Raises ValueError if the name is taken."""
    if correction.name in CORRECTIONS:
        raise ValueError(f"there is a correction '{correction.name}' already")
    CORRECTIONS[correction.name] = correction
    return correction


def correction_named(name: str) -> Correction:
    """The entry of that name. Raises ValueError listing the names that exist."""
    if name not in CORRECTIONS:
        raise ValueError(f"unknown correction '{name}'; possible: {', '.join(CORRECTIONS)}")
    return CORRECTIONS[name]


def importance_weights(
    name: str,
    logp_target: Tensor,
    logp_behavior: Tensor,
    mask: Tensor,
    *,
    advantages: Tensor | None = None,
    **params: float,
) -> Tensor:
    """The weight of each token under the correction `name`, computed from rho_t = pi(o_t | .) / b(o_t | .).

    Args:
        name: a key of `CORRECTIONS`.
        logp_target: (B, T), log pi of the tokens under the target.
        logp_behavior: (B, T), log b of the same tokens under the policy that sampled them.
        mask: (B, T), true for completion tokens.
        advantages: (B,), needed by `topr`. With them `base` clips on the pessimistic side only, like PPO's minimum of
            the clipped and the unclipped objective, as does `gspo`; without them both clip on both sides.
        params: those of the formula (`lambda`, a reserved word in Python, goes in as ``**{"lambda": 0.9}``).

    Returns:
        (B, T), 0 where the mask is false; detached, unless the gradient flows through the ratio (`base`, `gspo`).

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    correction = correction_named(name)
    values = correction.resolve(params)
    check_logps(mask, logp_target=logp_target, logp_behavior=logp_behavior)
    if advantages is None and correction.needs_advantages:
        raise ValueError(f"correction '{name}' needs advantages")
    if advantages is not None and advantages.shape != logp_target.shape[:1]:
        raise ValueError(f"advantages is {tuple(advantages.shape)}, but must be ({logp_target.shape[0]},)")
    log_rho = log_ratio(logp_target, logp_behavior, mask)
    if not correction.through_ratio:
        log_rho = log_rho.detach()
    valid = mask.bool()
    weights = correction.weights(Ratios(log_rho, valid, advantages), values)
    return weights.expand_as(log_rho).masked_fill(~valid, 0.0)


# --- shared by the formulas and the loss


def log_ratio(logp_target: Tensor, logp_behavior: Tensor, mask: Tensor) -> Tensor:
    """log rho_t (B, T), 0 where the mask is false, whatever the inputs hold there."""
    return (logp_target - logp_behavior).masked_fill(~mask.bool(), 0.0)


def ppo_clip(rho: Tensor, advantages: Tensor | None, low: float, high: float) -> Tensor:
    """w with w A = min(rho A, clip(rho, 1 - low, 1 + high) A): the clip binds above for A > 0, below for A < 0."""
    if advantages is None:
        return rho.clamp(1 - low, 1 + high)
    positive = (advantages >= 0).unsqueeze(1)
    return rho.clamp_max(1 + high).where(positive, rho.clamp_min(1 - low))


def check_logps(mask: Tensor, **logps: Tensor | None) -> None:
    """ValueError naming the argument: shapes differ from the first's, (B, T), no token is valid, or a valid
    log-probability is not finite.
    """
    name, first = next(iter(logps.items()))
    assert first is not None, "the first is the target's"
    if first.ndim != 2:
        raise ValueError(f"{name} must be (B, T), got {tuple(first.shape)}")
    if mask.shape != first.shape:
        raise ValueError(f"mask is {tuple(mask.shape)}, but {name} is {tuple(first.shape)}")
    if not mask.bool().any():
        raise ValueError("mask has no valid token")
    for argument, logp in logps.items():
        if logp is not None and logp.shape != first.shape:
            raise ValueError(f"{argument} is {tuple(logp.shape)}, but {name} is {tuple(first.shape)}")
        if logp is not None and not logp.detach()[mask.bool()].isfinite().all():
            raise ValueError(f"{argument} has a valid token whose log-probability is not finite")


# --- the registry; the first three are the headline variants


def _clips(low: float, high: float) -> dict[str, Parameter]:
    return {
        "clip_low": Parameter(low, lambda v: 0 < v < 1, "in (0, 1)", "Ratios are clipped below 1 − `clip_low`."),
        "clip_high": Parameter(high, lambda v: v > 0, "above 0", "Ratios are clipped above 1 + `clip_high`."),
    }


_LAMBDA = {"lambda": Parameter(1.0, lambda v: 0 < v <= 1, "in (0, 1]", "Factor of every truncated ratio.")}
_CAP = {"C": Parameter(2.0, lambda v: v > 0, "above 0", "Ratios above it count as `C`.")}
_BAND = {
    "lo": Parameter(0.5, lambda v: v >= 0, "0 or above", "Ratios below it count as 0; not above `hi`."),
    "hi": Parameter(5.0, lambda v: v > 0, "above 0", "Ratios above it count as 0."),
}


def _retrace_trace(r: Ratios, p: Mapping[str, float]) -> Tensor:
    steps = r.log_rho.new_ones(r.log_rho.shape[1]).cumsum(0)  # 1 to T
    return r.log_rho.clamp_max(0).cumsum(dim=1).exp() * p["lambda"] ** steps


def _reject(rho: Tensor, p: Mapping[str, float]) -> Tensor:
    return rho.masked_fill((rho < p["lo"]) | (rho > p["hi"]), 0.0)


def _topr(r: Ratios, p: Mapping[str, float]) -> Tensor:
    assert r.advantages is not None, "importance_weights checks it"
    return r.log_sequence.clamp_max(0).exp().masked_fill(r.advantages.unsqueeze(1) >= 0, 1.0)


for _entry in (
    Correction("base", r"\min(\rho_t A, \mathrm{clip}(\rho_t, 1 - \epsilon, 1 + \epsilon) A) / A",
               lambda r, p: ppo_clip(r.token, r.advantages, p["clip_low"], p["clip_high"]),
               "PPO's clip as in GRPO, its old policy being b (Schulman et al. 2017)", _clips(0.2, 0.2), clip="update"),
    Correction("unit", "1", lambda r, p: r.log_rho.new_ones(r.log_rho.shape), "on-policy REINFORCE"),
    Correction("retrace", r"\lambda \min(1, \rho_t)", lambda r, p: p["lambda"] * r.log_rho.clamp_max(0).exp(),
               "Retrace(λ), Munos et al. 2016", _LAMBDA),
    Correction("retrace_trace", r"\prod_{s \le t} \lambda \min(1, \rho_s)", _retrace_trace,
               "the cumulative trace of Retrace(λ)", _LAMBDA),
    Correction("is_token", r"\rho_t", lambda r, p: r.token, "importance sampling, token by token"),
    Correction("is_sequence", r"\prod_s \rho_s", lambda r, p: r.sequence, "importance sampling: the unbiased one"),
    Correction("tis_token", r"\min(\rho_t, C)", lambda r, p: r.token.clamp_max(p["C"]),
               "truncated importance sampling, Ionides 2008", _CAP),
    Correction("tis_sequence", r"\min(\prod_s \rho_s, C)", lambda r, p: r.sequence.clamp_max(p["C"]),
               "the same for the whole completion", _CAP),
    Correction("mask_token", r"\rho_t \, 1[lo \le \rho_t \le hi]", lambda r, p: _reject(r.token, p),
               "rejection, as in IcePop", _BAND),
    Correction("mask_sequence", r"r \, 1[lo \le r \le hi],\ r = \prod_s \rho_s", lambda r, p: _reject(r.sequence, p),
               "the same for the whole completion", _BAND),
    Correction("gspo", r"\min(r A, \mathrm{clip}(r, 1 - \epsilon_l, 1 + \epsilon_h) A) / A,\ r^{|o|} = \prod_s \rho_s",
               lambda r, p: ppo_clip(r.geometric_mean, r.advantages, p["clip_low"], p["clip_high"]),
               "length-normalised sequence ratio, Zheng et al. 2025", _clips(3e-4, 4e-4), clip="own"),
    Correction("topr", r"1 \text{ if } A \ge 0,\ \min(1, \prod_s \rho_s) \text{ if } A < 0", _topr,
               "tapered off-policy REINFORCE, Le Roux et al. 2025", needs_advantages=True),
):  # fmt: skip
    register(_entry)
